"""Targets of a batch: where people looked, as losses and metrics take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from emlnet.data.framing import Box, cut
from emlnet.data.maps import Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Densities and fixations of a batch, on the model's device.

    density: (B, 1, H, W) float32, >= 0, sums to 1 per image.
    index: (P,) int64, fixated pixels as positions in the flattened (B, H, W), each once.
    counts: (P,) float32, fixations on that pixel.
    weight: (B,) float32, 1, or 0 for a sample that only fills the last step of an epoch.
    frames: the part of each map that its picture fills; None when each fills the whole map.
    """

    density: Tensor
    index: Tensor
    counts: Tensor
    weight: Tensor
    frames: tuple[Box, ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.density.shape[-2], self.density.shape[-1]

    def fixation_map(self) -> Tensor:
        """Return the number of fixations on each pixel, (B, 1, H, W) float32."""
        flat = self.counts.new_zeros(self.density.numel())
        return flat.index_put_((self.index,), self.counts).view_as(self.density)


def by_frame(
    output: Tensor,
    targets: Targets,
    kind: Kind,
    measure: Callable[[Tensor, Targets], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Return what `measure` computes inside each image's frame, by name, (B,).

    output: (B, 1, H, W).  A density is scaled to a sum of 1 in its frame.  `measure` is called once
    for the images of each frame, so that padding takes no part.
    """
    if targets.frames is None:
        return measure(output, targets)
    rows: dict[Box, list[int]] = {}
    for row, frame in enumerate(targets.frames):
        rows.setdefault(frame, []).append(row)
    parts = []
    for frame, chosen in rows.items():
        part = cut(output[chosen], frame)
        if kind == "density":
            part = part - part.logsumexp((2, 3), keepdim=True)
        parts.append(measure(part, _cut_targets(targets, chosen, frame)))
    order = torch.tensor([*chain(*rows.values())], device=output.device).argsort()
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}


def _cut_targets(targets: Targets, rows: list[int], frame: Box) -> Targets:
    """Return the targets of some images, cut to the frame that they share."""
    height, width = targets.size
    image = targets.index // (height * width)
    new_image = torch.full_like(targets.weight, -1, dtype=torch.int64)
    new_image[rows] = torch.arange(len(rows), device=new_image.device)
    kept = new_image[image] >= 0
    index, image = targets.index[kept], new_image[image[kept]]
    y, x = index // width % height - frame.top, index % width - frame.left
    return replace(
        targets,
        density=cut(targets.density[rows], frame).contiguous(),
        index=(image * frame.height + y) * frame.width + x,
        counts=targets.counts[kept],
        weight=targets.weight[rows],
        frames=None,
    )
