"""Scores of a model over validation batches, summed over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from emlnet.data.maps import Kind, mirror_average, to_density, to_log_density
from emlnet.data.targets import Targets, by_frame
from emlnet.metrics.saliency_metrics import Rules, score
from emlnet.training.distributed import sum_over_ranks
from emlnet.training.state import unwrap

Inputs = tuple[Any, ...]
"""Arguments of a model: images, or readouts and a size."""
TrainBatch = tuple[Inputs, Targets]
Baseline = Callable[[tuple[int, int]], Tensor]
"""Returns the log-density (1, 1, H, W) that information gain is measured over, given (H, W)."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[TrainBatch],
    rules: Rules = "mit",
    flip: bool = False,
    baseline: Baseline | None = None,
) -> dict[str, float]:
    """Return each metric's mean over the images of all ranks.

    Fixation metrics skip images without fixations.  Every rank must make the same number of calls.
    flip: average with the mirrored image's map.  baseline: adds `ig` over this baseline.
    Raises ValueError if there are no batches.
    """
    network = unwrap(model).eval()
    names: list[str] = []
    sums: list[Tensor] = []
    for inputs, targets in batches:
        output = network(*inputs)
        if flip:
            mirrored = network(inputs[0].flip(-1), *inputs[1:])
            output = mirror_average(output, mirrored, network.kind)
        more: dict[str, Tensor] = {}
        if baseline:
            density = baseline(targets.size).to(targets.density)
            more["baseline_log_density"] = density.expand_as(targets.density)
        scores = score_output(output, targets, network.kind, rules, **more)
        names = list(scores)
        values = torch.stack(list(scores.values())).double()
        counted = targets.weight.double() * values.isfinite()
        sums.append(torch.stack([(values.nan_to_num() * counted).sum(1), counted.sum(1)]))
    if not sums:
        raise ValueError("no validation images")
    total, number = sum_over_ranks(torch.stack(sums).sum(0))
    return dict(zip(names, (total / number).tolist(), strict=True))


def score_output(
    output: Tensor, targets: Targets, kind: Kind, rules: Rules = "mit", **more: Tensor
) -> dict[str, Tensor]:
    """Return all metrics of a rule book for a model's output, (B,) each.

    more: further maps for saliency_metrics.score; only for targets without frames.
    """
    assert not more or targets.frames is None

    def measure(maps: Tensor, part: Targets) -> dict[str, Tensor]:
        return score(
            to_density(maps, "density") if kind == "density" else maps,
            part.fixation_map(),
            part.density,
            rules=rules,
            log_density=to_log_density(maps, kind),
            **more,
        )

    return by_frame(output, targets, kind, measure)
