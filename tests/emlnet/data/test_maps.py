from __future__ import annotations

import pytest
import scipy.ndimage
import torch

from emlnet.data import maps


def noise(*size, seed=0):
    return torch.rand(2, 1, *(size or (12, 16)), generator=torch.Generator().manual_seed(seed))


def test_a_gaussian_kernel_sums_to_one_and_has_its_deviation():
    kernel = maps.gaussian_kernel(2.0, 12).double()
    offsets = torch.arange(-12, 13)
    assert kernel.sum().item() == pytest.approx(1)
    assert (kernel * offsets**2).sum().sqrt().item() == pytest.approx(2, abs=1e-3)


def test_the_width_of_a_blur_can_be_learned():
    sigma = torch.tensor(1.5, requires_grad=True)
    maps.gaussian_blur(noise(), sigma, 6)[..., 5, 5].sum().backward()
    assert sigma.grad.abs() > 0


@pytest.mark.parametrize(("mode", "scipys"), [("constant", "constant"), ("replicate", "nearest")])
def test_a_blur_is_the_convolution_with_a_gaussian(mode, scipys):
    given = noise()
    expected = scipy.ndimage.gaussian_filter(given[0, 0].double(), 1.5, mode=scipys, truncate=4)
    blurred = maps.gaussian_blur(given, 1.5, 6, mode)
    torch.testing.assert_close(
        blurred[0, 0].double(), torch.from_numpy(expected), rtol=1e-5, atol=0
    )


def test_a_density_map_sums_to_one_even_at_the_border():
    fixations = torch.zeros(1, 1, 12, 16)
    fixations[0, 0, 0, 15] = 2
    density = maps.density_map(fixations, 2.0)
    assert density.sum().item() == pytest.approx(1)
    assert density.argmax() == 15


def test_a_checkerboard_made_smaller_is_grey():
    board = (torch.arange(24)[:, None] + torch.arange(32)) % 2
    small = maps.resize(board[None, None].float(), (8, 8))
    torch.testing.assert_close(small, torch.full((1, 1, 8, 8), 0.5), atol=0.06, rtol=0)


def test_half_precision_maps_can_be_made_smaller():
    assert maps.resize(noise().bfloat16(), (6, 8)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_density_and_log_density_of_an_output_agree(kind):
    output = maps.log_softmax(5 * noise()) if kind == "density" else noise()
    density, log_density = maps.to_density(output, kind), maps.to_log_density(output, kind)
    torch.testing.assert_close(density.sum((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(log_density.exp(), density)


def test_min_max_scales_each_map_to_zero_and_one():
    given = noise() * torch.tensor([3.0, 0.1]).view(2, 1, 1, 1) - 1
    scaled = maps.min_max(given)
    assert scaled.amin((1, 2, 3)).tolist() == [0, 0]
    assert scaled.amax((1, 2, 3)).tolist() == [1, 1]


def test_the_mirror_average_of_saliency_maps_is_their_mean():
    one, other = noise(), noise(seed=1)
    average = maps.mirror_average(one, other.flip(-1), "eml")
    torch.testing.assert_close(average, (one + other) / 2)


def test_the_mirror_average_of_log_densities_is_the_log_of_the_mean_density():
    one, other = maps.log_softmax(5 * noise()), maps.log_softmax(5 * noise(seed=1))
    average = maps.mirror_average(one, other.flip(-1), "density")
    torch.testing.assert_close(average.exp(), (one.exp() + other.exp()) / 2)
