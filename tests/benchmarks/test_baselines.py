"""The baselines are right, else a ratio to them means nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks import loss as loss_benchmark
from benchmarks.baseline import loss as baseline_loss

GOLDEN = Path(__file__).parents[1] / "data" / "golden.npz"


def test_the_loop_over_images_has_the_authors_losses_and_gradient():
    with np.load(GOLDEN) as arrays:
        golden = {name: torch.from_numpy(arrays[name]) for name in arrays}
    prediction = golden["prediction"].clone().requires_grad_()
    total, terms = baseline_loss.loss(prediction, golden["density"], golden["fixation"])
    total.backward()
    for name, values in terms.items():
        torch.testing.assert_close(values.double(), golden[f"loss_{name}"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(total.double(), golden["loss_total"], rtol=1e-5, atol=1e-5)
    scale = golden["loss_gradient"].abs().max()
    torch.testing.assert_close(
        prediction.grad / scale, golden["loss_gradient"] / scale, rtol=1e-4, atol=1e-6
    )


def test_the_sides_of_the_loss_benchmark_compute_one_loss():
    ours = loss_benchmark.ours(2, "eml", "reference")()
    theirs = loss_benchmark.baseline(2)()
    assert abs(ours["loss"] - theirs["loss"]) < 1e-5
    mine, other = (torch.tensor(side["gradient"]) for side in (ours, theirs))
    torch.testing.assert_close(
        mine / other.abs().max(), other / other.abs().max(), rtol=0, atol=1e-5
    )
