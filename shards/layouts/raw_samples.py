"""The samples of a source folder of any layout; reads and checks one sample.

Each layout has a file of its own beside this one, that finds samples (`walk`) and reads gaze.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emlnet.data.images import decode_picture
from emlnet.data.samples import Sample
from shards.files import stored_pictures
from shards.layouts.folders import fingerprint
from shards.layouts.raw_gaze import (
    ZERO_BASED,
    CoordinateSystem,
    FixationReader,
    RawFixations,
    without_gaze_files,
)

VAL_SHARE = 0.1
Maps = Literal["auto", "files", "fixations"]


class IncompleteSampleError(ValueError):
    """A sample that cannot be used.

    what: the file at fault, relative to the source, with details.  kind: ends "3 of 10 images ...".
    """

    def __init__(self, what: str, kind: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.what, self.kind = what, kind


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source is to be read.

    splits: those wanted, all that have gaze when empty.  seed: of the split, if one must be made.
    maps: where density maps come from: `files` demands them, `auto` takes them where the layout
    has any.  table: of the csv layout, found in the source when None.
    coordinates: what x and y of the table mean.
    trust_coordinates: take a table's coordinates as they are, however unlikely.
    """

    splits: tuple[str, ...] = ()
    seed: int = 0
    maps: Maps = "auto"
    table: Path | None = None
    coordinates: CoordinateSystem = ZERO_BASED
    trust_coordinates: bool = False


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """One sample: its files relative to the source folder, and its gaze, or the file that has it.

    density: None where there is no map, or none is wanted.
    """

    key: str
    image: str
    gaze: str | RawFixations
    density: str | None

    @property
    def files(self) -> tuple[str, ...]:
        """The files of this sample only."""
        return tuple(
            file for file in (self.image, self.gaze, self.density) if isinstance(file, str)
        )


@dataclass(frozen=True, kw_only=True)
class RawFolder:
    """The samples and faults of a source folder.

    splits: its samples by split, sorted by name.  faults: images that miss a file, and files that
    miss their image.  split_seed: of the split that was made, None when the folder has its own.
    unlabelled: splits of images only.  fingerprint: changes with a file's name, size or time.
    sigma: pixels of the Gaussian that the layout's authors blur with, None when they do not say.
    """

    path: Path
    format: str
    coordinates: CoordinateSystem
    read_gaze: FixationReader
    splits: dict[str, tuple[RawSample, ...]]
    faults: tuple[IncompleteSampleError, ...]
    split_seed: int | None
    unlabelled: tuple[str, ...] = ()
    fingerprint: str
    sigma: float | None

    @property
    def num_images(self) -> int:
        """Samples and faults together."""
        return len(self.faults) + sum(len(samples) for samples in self.splits.values())

    @property
    def has_maps(self) -> bool:
        """Whether density maps come from files."""
        return any(raw.density for samples in self.splits.values() for raw in samples)


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedSample:
    """One sample as read from the raw folder, with what was dropped from its gaze.

    density: (H, W) uint8, the decoded density map.
    density_cc: correlation of the map from a file with one made of the fixations, or None.
    """

    sample: Sample
    density: NDArray[np.uint8]
    num_points_outside: int
    num_empty_observers: int
    density_cc: float | None


def read(folder: RawFolder, raw: RawSample, sigma: float | None = None) -> CheckedSample:
    """Reads and checks one sample: pictures decode whole, all sizes agree, somebody looked.

    A fixation is rounded to the nearest pixel, halves to the right and down; one that is then
    outside the photograph, or not a number, is dropped and counted, never moved.
    sigma: pixels of the Gaussian that makes a density map where there is no file.
    Raises IncompleteSampleError naming the file that is at fault.
    """
    try:
        image = stored_pictures.as_stored((folder.path / raw.image).read_bytes(), raw.image)
        size = decode_picture(image, raw.image).shape[:2]
        sizes = {raw.image: size}
        if isinstance(raw.gaze, str):
            gaze_file, gaze = raw.gaze, folder.read_gaze(folder.path / raw.gaze, raw.gaze)
        else:
            gaze_file, gaze = f"the gaze of {raw.image}", raw.gaze
        if gaze.size:
            sizes[gaze_file] = gaze.size
        density = None
        if raw.density:
            density = stored_pictures.read_density(folder.path / raw.density, raw.density)
            sizes[raw.density] = density.shape
        if len(set(sizes.values())) != 1:
            listed = ", ".join(
                f"{file} is {height} x {width}" for file, (height, width) in sizes.items()
            )
            raise ValueError(f"sizes differ: {listed}")
    except ValueError as error:
        raise IncompleteSampleError(str(error), "cannot be used") from error
    pixels = np.floor(folder.coordinates.to_pixels(gaze.points, size) + 0.5)
    inside = ((pixels >= 0) & (pixels < size[::-1])).all(axis=1)
    if not inside.any():
        missing = " in the picture (--units, --origin?)" if len(pixels) else ""
        raise IncompleteSampleError(gaze_file, f"have no fixations{missing}")
    points = pixels[inside].astype(np.int32)
    density_cc = None
    if density is None:
        assert sigma is not None
        density = stored_pictures.draw_density(points, size, sigma)
    elif density.any():
        density_cc = stored_pictures.agreement(density, points, sigma)
    else:
        raise IncompleteSampleError(str(raw.density), "have a density map of zeros")
    return CheckedSample(
        sample=Sample(
            key=raw.key,
            image=image,
            points=points,
            observers=gaze.observers[inside],
            density=stored_pictures.encode_density(density),
            timing=None if gaze.timing is None else gaze.timing[inside],
        ),
        density=density,
        num_points_outside=int((~inside).sum()),
        num_empty_observers=gaze.num_empty_observers,
        density_cc=density_cc,
    )


def gather(
    source: Path,
    options: SourceOptions,
    samples: Sequence[RawSample] | dict[str, tuple[RawSample, ...]],
    faults: Sequence[IncompleteSampleError],
    *,
    format: str,
    coordinates: CoordinateSystem,
    read_gaze: FixationReader = without_gaze_files,
    sigma: float | None = None,
    unlabelled: Sequence[str] = (),
    tables: Sequence[str] = (),
    read_as: str = "",
) -> RawFolder:
    """Builds the RawFolder of the samples found in a source.

    samples: by split, or a sequence to be split here (keys `/stem`).

    tables: files that hold the gaze of many samples.  read_as: options that change what they mean.
    """
    made = not isinstance(samples, dict)
    if made and len(samples) < 2 and faults:
        raise ValueError(
            f"{source}: {len(faults)} of {len(faults) + len(samples)} images cannot be used, so "
            f"there are not enough to split into train and val; the first: {faults[0]}"
        )
    splits = choose(
        source,
        samples if isinstance(samples, dict) else make_split(samples, options.seed),
        options.splits,
    )
    owners: dict[str, RawSample] = {}
    for raw in (raw for chosen in splits.values() for raw in chosen):
        if owners.setdefault(raw.key, raw) is not raw:
            raise ValueError(
                f"{source}: {owners[raw.key].image} and {raw.image} would both be {raw.key}; "
                "rename one"
            )
    files: list[tuple[str, ...]] = [
        (raw.key, *raw.files) for chosen in splits.values() for raw in chosen
    ]
    files += [("", table) for table in tables] + ([(read_as,)] if read_as else [])
    return RawFolder(
        path=source,
        format=format,
        coordinates=coordinates,
        read_gaze=read_gaze,
        splits=splits,
        faults=tuple(faults),
        split_seed=options.seed if made else None,
        unlabelled=() if options.splits else tuple(unlabelled),
        fingerprint=fingerprint(source, files),
        sigma=sigma,
    )


def choose(
    source: Path, found: dict[str, tuple[RawSample, ...]], wanted: Sequence[str]
) -> dict[str, tuple[RawSample, ...]]:
    """The wanted splits, all when none is named.  Raises ValueError for one that is not there."""
    for split in wanted:
        if split not in found:
            raise ValueError(f"{source} has no split {split!r}; it has {', '.join(found)}")
    return {split: found[split] for split in dict.fromkeys(wanted or found)}


def make_split(samples: Sequence[RawSample], seed: int) -> dict[str, tuple[RawSample, ...]]:
    """A seeded tenth of the samples as `val`, the others as `train`; keys are `/stem` before."""
    if len(samples) < 2:
        raise ValueError(
            f"{len(samples)} complete sample cannot be split into train and val; add more"
        )
    order = np.random.default_rng(seed).permutation(len(samples))
    val = set(order[: max(1, round(VAL_SHARE * len(samples)))].tolist())
    made: dict[str, list[RawSample]] = {"train": [], "val": []}
    for position, sample in enumerate(samples):
        split = "val" if position in val else "train"
        made[split].append(replace(sample, key=f"{split}{sample.key}"))
    return {split: tuple(members) for split, members in made.items()}
