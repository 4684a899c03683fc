"""Folds of the training samples, so that a model can read samples that it was not trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from shards.read.reader import ShardReader


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One of `total` folds; number: from 0."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"fold {self.number + 1} of {self.total}"

    def leave_out(self, reader: ShardReader) -> ShardReader:
        """Return the samples of the other folds, in their order."""
        others = [n for n, key in enumerate(reader.keys) if fold_of(key, self.total) != self.number]
        return reader.subset(others)


def fold_of(key: str, total: int) -> int:
    """Return the number of a sample's fold, from 0.  It depends on the key only."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % total


def split_in_folds(reader: ShardReader, total: int) -> list[Fold]:
    """Return the folds of a split.

    Raises ValueError when a fold lacks samples of one of the data sets.
    """
    numbers = [fold_of(key, total) for key in reader.keys]
    for samples in np.split(np.array(numbers, int), np.cumsum(reader.parts)[:-1]):
        if len(found := np.unique(samples)) < total:
            raise ValueError(
                f"the {len(samples)} training pictures of a data set fall into {len(found)} of "
                f"{total} folds, by their names; choose fewer --folds (0: none), or add pictures"
            )
    return [Fold(number=number, total=total) for number in range(total)]
