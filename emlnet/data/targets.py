"""Targets of a batch: densities and fixations for losses and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emlnet.data.framing import Box, crop
from emlnet.data.maps import Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Densities and fixations of a batch, on the model's device.

    density: (B, 1, H, W) float32, >= 0, sums to 1 per image.
    index: (P,) int64, distinct fixated pixels as positions in the flattened (B, H, W).
    counts: (P,) float32, fixations on that pixel.
    weight: (B,) float32, 1 for a sample; 0 for a filler in the last step of an epoch.
    frames: the part of each map that its picture fills; None if no map has padding.
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
    """Compute `measure` inside each image's frame; return its values (B,) by name.

    output: (B, 1, H, W).  A density is scaled to a sum of 1 in its frame.  `measure` is called once
    for the batch, or once per image if there is padding.
    """
    if targets.frames is None:
        return measure(output, targets)
    parts = []
    for row, frame in enumerate(targets.frames):
        part = crop(output[row : row + 1], frame)
        if kind == "density":
            part = part - part.logsumexp((2, 3), keepdim=True)
        parts.append(measure(part, _crop_targets(targets, row, frame)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _crop_targets(targets: Targets, row: int, frame: Box) -> Targets:
    height, width = targets.size
    own = targets.index // (height * width) == row
    index = targets.index[own] - row * height * width
    y, x = index // width - frame.top, index % width - frame.left
    return replace(
        targets,
        density=crop(targets.density[row : row + 1], frame).contiguous(),
        index=y * frame.width + x,
        counts=targets.counts[own],
        weight=targets.weight[row : row + 1],
        frames=None,
    )
