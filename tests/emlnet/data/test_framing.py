from __future__ import annotations

import numpy as np
import pytest
import torch

from emlnet.data.batches import prepare_image, prepare_targets
from emlnet.data.framing import Box, letterbox_box, random_part
from emlnet.losses import LossWeights, saliency_loss
from emlnet.training.validation import score_output
from tests.emlnet.data.small_samples import decoded, joined

CANVAS = (24, 32)
ALL = LossWeights(kl=1, cc=1, nss=1, sim=1, mse=1)


def spot(x, y, size=CANVAS):
    """A sample whose picture, density and one fixation are all at one pixel."""
    image, density = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
    image[y, x], density[y, x] = 255, 255
    return decoded([(x, y)], size, image=image, density=density)


def mask(targets):
    """(B, 1, H, W) bool, false in the padding of a letterbox."""
    mask = torch.ones_like(targets.density, dtype=torch.bool)
    for row, (top, left, height, width) in zip(mask, targets.frames or (), strict=False):
        row.fill_(False)
        row[:, top : top + height, left : left + width] = True
    return mask


def peak(maps):
    """(y, x) of each map's largest value."""
    return [divmod(int(row.sum(0).argmax()), row.shape[-1]) for row in maps]


@pytest.mark.parametrize(
    ("size", "frame"),
    [
        ((24, 32), (0, 0, 24, 32)),
        ((48, 64), (0, 0, 24, 32)),
        ((30, 20), (0, 8, 24, 16)),
        ((9, 32), (7, 0, 9, 32)),
        ((1, 1000), (11, 0, 1, 32)),
    ],
)
def test_a_letterbox_is_the_largest_frame_in_the_middle(size, frame):
    assert letterbox_box(size, CANVAS) == frame


def test_a_random_part_keeps_proportions_and_stays_inside():
    random = np.random.default_rng(0)
    for draws in [(0, 0, 0), (0.999, 0.999, 0.999), *random.random((50, 3))]:
        part = random_part((48, 64), 0.5, draws)
        assert 24 <= part.height <= 48
        assert part.width / part.height == pytest.approx(64 / 48, rel=0.05)
        assert part.top >= 0 <= part.left
        assert part.top + part.height <= 48
        assert part.left + part.width <= 64
    assert random_part((48, 64), 0.5, (0, 0.9, 0.9)) == (0, 0, 48, 64)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("part", [Box(4, 6, 12, 16), Box(0, 16, 12, 16), Box(0, 0, 24, 32)])
def test_a_part_moves_picture_density_and_fixation_together(part, flip):
    batch = joined(spot(17, 9), flip=[flip], parts=[part])
    targets = prepare_targets(batch)
    height, width = CANVAS
    fixated = divmod(int(targets.index), width)
    scale = height / part.height
    centre_y, centre_x = (9.5 - part.top) * scale, (17.5 - part.left) * scale
    centre_x = width - centre_x if flip else centre_x
    assert fixated == (int(centre_y), int(centre_x))
    for shown in (prepare_image(batch), targets.density):
        y, x = peak(shown)[0]
        assert abs(y - fixated[0]) <= 1 >= abs(x - fixated[1])
    assert float(targets.density.sum()) == pytest.approx(1)


def test_fixations_outside_the_part_are_dropped_and_repeats_stay():
    sample = decoded([(0, 0), (10, 8), (10, 8), (31, 23)], CANVAS)
    targets = prepare_targets(joined(sample, parts=[Box(4, 6, 12, 16)]))
    assert targets.counts.tolist() == [2]
    assert divmod(int(targets.index), 32) == (9, 9)


def test_a_part_without_fixations_is_not_taken():
    sample = decoded([(0, 0)], CANVAS)
    targets = prepare_targets(joined(sample, parts=[Box(8, 8, 12, 16)]))
    assert targets.index.tolist() == [0]
    torch.testing.assert_close(
        prepare_image(joined(sample, parts=[Box(8, 8, 12, 16)])), prepare_image(joined(sample))
    )


def test_mixed_sizes_share_a_canvas_with_a_mask():
    batch = joined(decoded([(0, 0)], CANVAS), decoded([(19, 29)], (30, 20), seed=1), canvas=CANVAS)
    assert batch.image.shape == (24 * 32 * 3 + 30 * 20 * 3,)
    image, targets = prepare_image(batch), prepare_targets(batch)
    assert image.shape == (2, 3, *CANVAS)
    assert mask(targets)[0].all()
    assert mask(targets)[1].sum() == 24 * 16
    assert not mask(targets)[1, 0, :, :8].any()
    assert not image[1, :, :, :8].any()
    torch.testing.assert_close(targets.density.sum((1, 2, 3)), torch.ones(2))
    assert float(targets.density[1][~mask(targets)[1]].sum()) == 0
    assert targets.index.tolist() == [0, 24 * 32 + 23 * 32 + 23]


def test_fixations_that_meet_on_a_smaller_canvas_add_up():
    targets = prepare_targets(joined(decoded([(0, 0), (1, 1)], (48, 64)), canvas=CANVAS))
    assert targets.index.tolist() == [0]
    assert targets.counts.tolist() == [2]


def test_a_stretched_picture_fills_the_canvas():
    targets = prepare_targets(joined(decoded([(19, 29)], (30, 20)), canvas=CANVAS, stretch=True))
    assert targets.frames is None
    assert mask(targets).all()
    assert targets.index.tolist() == [24 * 32 - 1]


def test_a_density_of_zeros_is_uniform_in_its_frame():
    sample = spot(3, 3, (30, 20))
    sample.density[:] = 0
    targets = prepare_targets(joined(sample, canvas=CANVAS))
    assert torch.equal(targets.density[mask(targets)], torch.full((24 * 16,), 1 / (24 * 16)))
    assert float(targets.density[~mask(targets)].sum()) == 0


@pytest.mark.parametrize("kind", ["density", "eml"])
@pytest.mark.parametrize("terms", ["exact", "reference"])
def test_losses_and_metrics_of_a_letterbox_are_those_of_its_frame(kind, terms):
    """Whatever a model answers on the padding, and in whichever order frames come."""
    sizes = [(24, 16), CANVAS, (24, 16), (12, 32)]
    frames = [(0, 8, 24, 16), (0, 0, 24, 32), (0, 8, 24, 16), (6, 0, 12, 32)]
    samples = [
        decoded([(3, 4), (9, 2), (9, 2)], size, seed=seed) for seed, size in enumerate(sizes)
    ]
    output = torch.randn(4, 1, *CANVAS, generator=torch.Generator().manual_seed(0))
    output = output.flatten(1).log_softmax(1).view_as(output) if kind == "density" else output.exp()
    targets = prepare_targets(joined(*samples, canvas=CANVAS))
    total, values = saliency_loss(output, targets, ALL, kind, terms)
    scores = score_output(output, targets, kind)
    for row, (sample, (top, left, height, width)) in enumerate(zip(samples, frames, strict=True)):
        alone = output[row : row + 1, :, top : top + height, left : left + width]
        if kind == "density":
            alone = alone.flatten(1).log_softmax(1).view_as(alone)
        gaze = prepare_targets(joined(sample))
        expected, terms_alone = saliency_loss(alone, gaze, ALL, kind, terms)
        torch.testing.assert_close(total[row], expected[0])
        for name, value in terms_alone.items():
            torch.testing.assert_close(values[name][row], value[0])
        for name, value in score_output(alone, gaze, kind).items():
            torch.testing.assert_close(scores[name][row], value[0], rtol=1e-5, atol=1e-6)


def test_padding_gets_no_gradient():
    output = torch.randn(1, 1, *CANVAS, generator=torch.Generator().manual_seed(0))
    output.requires_grad_()
    targets = prepare_targets(joined(decoded([(3, 4)], (24, 16)), canvas=CANVAS))
    log_density = output.flatten(1).log_softmax(1).view_as(output)
    saliency_loss(log_density, targets, ALL)[0].sum().backward()
    assert output.grad is not None
    assert output.grad[mask(targets)].abs().sum() > 0
    torch.testing.assert_close(output.grad[~mask(targets)], torch.zeros(24 * 16), atol=1e-7, rtol=0)
