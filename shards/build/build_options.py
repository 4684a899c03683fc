"""Options of a build; imports little, since the command line needs it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shards.layouts.source_options import SourceOptions


@dataclass(frozen=True, kw_only=True)
class BuildOptions(SourceOptions):
    """Options for reading a source and writing shards."""

    sigma: float | None = None
    """Sigma in pixels of the Gaussian that makes density maps, or checks those from files.
    Default: the data set's own, if known."""
    sigma_degrees: float | None = None
    """The same in degrees of visual angle; needs --pixels-per-degree."""
    pixels_per_degree: float | None = None
    """Pixels of the photograph that one degree of visual angle covers."""
    edition: str | None = None
    """Edition of the data set to record; default: for SALICON, derived from the number of
    fixations, else none."""
    licence: str | None = None
    """Licence of the data set, which models trained on it name; default: the first line of SRC's
    file LICENSE."""
    shard_size: int = 100
    """Largest number of samples in a shard."""
    skip_incomplete: bool = False
    """Leave out images that cannot be used; they are counted and recorded in the manifest."""
    drop_duplicates: bool = False
    """Leave out of val and test the photographs that are also in train, even if encoded again."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"a shard must hold at least 1 sample, not {self.shard_size}")
        if (self.sigma_degrees is None) != (self.pixels_per_degree is None):
            raise ValueError("--sigma-degrees and --pixels-per-degree go together; give both")
        if self.sigma is not None and self.sigma_degrees is not None:
            raise ValueError("--sigma and --sigma-degrees set the same width; give one")
        if self.blur is not None and not 0 < self.blur < math.inf:
            raise ValueError(f"the sigma of density maps must be above 0, not {self.blur}")

    @property
    def blur(self) -> float | None:
        """Sigma of the density maps' Gaussian in pixels."""
        if self.sigma_degrees is not None and self.pixels_per_degree is not None:
            return self.sigma_degrees * self.pixels_per_degree
        return self.sigma
