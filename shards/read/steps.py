"""What worker processes do: they read a step's samples and hand them on as one parcel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from emlnet.data.augment import Augmentation, colour_factors
from emlnet.data.framing import Size, random_part
from emlnet.data.samples import Batch, Decoded, Place, collate, places, split_pictures
from shards.read.order import Step
from shards.read.reader import Reader

OnError = Literal["strict", "skip"]


class Parcel(NamedTuple):
    """A batch on its way from a worker process: its pictures in one piece of memory.

    pictures: (N,) uint8, photographs, then densities, or the slot they are in and their number.
    shape: of the batch's photographs.
    fields: the batch's others; arrays, since each tensor would need a descriptor of its own.
    failed: positions of samples that could not be read, why, and whether they would have counted.
    """

    pictures: Tensor | tuple[int, int]
    shape: tuple[int, ...]
    fields: dict[str, Any]
    failed: list[tuple[int, str, bool]]

    @classmethod
    def of(
        cls, batch: Batch, pictures: Tensor | tuple[int, int], failed: list[tuple[int, str, bool]]
    ) -> Parcel:
        """Packs a batch whose pictures lie in `pictures`."""
        fields = {
            name: value.numpy() if isinstance(value, Tensor) else value
            for name, value in vars(batch).items()
            if name not in ("image", "density")
        }
        return cls(pictures, tuple(batch.image.shape), fields, failed)

    def batch(self, slots: Tensor | None) -> Batch:
        """The batch, its pictures where they lie."""
        if isinstance(self.pictures, tuple):
            assert slots is not None
            pictures = slots[self.pictures[0], : self.pictures[1]]
        else:
            pictures = self.pictures
        fields: dict[str, Any] = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in self.fields.items()
        }
        image, density = split_pictures(pictures, self.shape)
        return Batch(image=image, density=density, **fields)


class Steps(Dataset[Parcel]):
    """Reads one step's samples and collates them; lives in the worker processes."""

    def __init__(
        self,
        reader: Reader,
        augmentation: Augmentation,
        on_error: OnError,
        canvas: Size | None,
        stretch: bool,
        maps: bool,
        slots: Tensor | None,
    ) -> None:
        self.reader, self.augmentation, self.on_error = reader, augmentation, on_error
        self.canvas, self.stretch, self.maps, self.slots = canvas, stretch, maps, slots

    def __getitem__(self, row: tuple[Step, int]) -> Parcel:
        step, slot = row
        sizes = [self.reader.sizes[int(position)] for position in step.indices]
        num_bytes = (3 + self.maps) * sum(height * width for height, width in sizes)
        pictures = _memory(num_bytes) if self.slots is None else self.slots[slot, :num_bytes]
        samples, failed = self._read(step, places(pictures, sizes))
        weights = step.weights * np.array([sample is not None for sample in samples])
        # Another sample of the batch, which weighs nothing, is better than a blank for BatchNorm.
        spares = {sample.density.shape: sample for sample in samples if sample is not None}
        shown = [
            sample or spares.get(size) or blank(size)
            for sample, size in zip(samples, sizes, strict=True)
        ]
        parts, colour = None, None
        if self.augmentation.crop:
            parts = [
                random_part(sample.density.shape, self.augmentation.crop, draws[:3].tolist())
                for sample, draws in zip(shown, step.draws, strict=True)
            ]
        if self.augmentation.colour:
            colour = colour_factors(step.draws[:, 3:], self.augmentation.colour)
        batch = collate(
            shown,
            weights,
            step.flips,
            canvas=self.canvas,
            stretch=self.stretch,
            parts=parts,
            colour=colour,
            pictures=pictures,
        )
        return Parcel.of(batch, pictures if self.slots is None else (slot, num_bytes), failed)

    def _read(
        self, step: Step, free: Sequence[Place]
    ) -> tuple[list[Decoded | None], list[tuple[int, str, bool]]]:
        """A step's samples, their pictures in these places, and what could not be read."""
        samples: list[Decoded | None] = []
        failed = []
        for position, weight, place in zip(step.indices.tolist(), step.weights, free, strict=True):
            try:
                samples.append(self.reader.decoded(position, place))
            except (ValueError, OSError) as error:
                if self.on_error == "strict":
                    raise
                samples.append(None)
                failed.append((position, str(error), bool(weight)))
        return samples, failed


def _memory(num_bytes: int) -> Tensor:
    """(num_bytes,) uint8; in a worker process such as crosses to another without a copy."""
    if get_worker_info() is None:
        return torch.empty(num_bytes, dtype=torch.uint8)
    # As torch's own collate takes it.
    storage: torch.UntypedStorage = torch.UntypedStorage._new_shared(num_bytes)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (num_bytes,), (1,))


def blank(size: Size) -> Decoded:
    """A black picture that nobody looked at."""
    return Decoded(
        key="blank",
        image=np.zeros((*size, 3), np.uint8),
        points=np.zeros((0, 2), np.int32),
        observers=np.zeros(0, np.int32),
        density=np.zeros(size, np.uint8),
    )
