"""Pair, read and check the samples of a source folder in any layout.

Each layout has a file beside this one, with a `LAYOUT` that finds samples and reads fixations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emlnet.data.images import decode_picture
from emlnet.data.samples import Sample
from shards.files import stored_pictures
from shards.files.manifest import Skipped
from shards.layouts.folders import child, has
from shards.layouts.source_options import ZERO_BASED, CoordinateSystem, Size, SourceOptions

NO_OBSERVER = -1
"""The observer of a fixation if the source names none."""


class IncompleteSampleError(ValueError):
    """A sample that cannot be used; the reason completes "3 of 10 images ..."."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{reason}: {file}")
        self.skipped = Skipped(file=file, reason=reason)


@dataclass(frozen=True, kw_only=True, eq=False)
class RawFixations:
    """The fixations on one photograph, as the source has them.

    points: (N, 2) float64 (x, y) in the source's coordinates.  observers: (N,) int32.
    timing: (N, 2) float32 onset and duration in ms, or None.
    size: (H, W) of the photograph as the file of fixations states it, or None.
    """

    points: NDArray[np.float64]
    observers: NDArray[np.int32]
    timing: NDArray[np.float32] | None = None
    size: Size | None = None
    num_empty_observers: int = 0

    @classmethod
    def of_observers(
        cls, observers: Sequence[NDArray[np.float64]], size: Size | None = None
    ) -> RawFixations:
        """Join the fixations (M, 2) of observers in order; count observers without any."""
        numbers = np.arange(len(observers), dtype=np.int32)
        return cls(
            points=np.concatenate([np.empty((0, 2)), *observers]),
            observers=np.repeat(numbers, [len(points) for points in observers]),
            size=size,
            num_empty_observers=sum(not len(points) for points in observers),
        )

    @classmethod
    def of_mask(cls, fixated: NDArray[np.bool_], first_pixel: int = 0) -> RawFixations:
        """Return the fixated pixels of a mask (H, W), of unknown observers."""
        y, x = np.nonzero(fixated)
        return cls(
            points=np.stack([x, y], axis=1).astype(np.float64) + first_pixel,
            observers=np.full(len(x), NO_OBSERVER, np.int32),
            size=(fixated.shape[0], fixated.shape[1]),
        )


FixationReader = Callable[[Path, str], RawFixations]
"""(file, its name in messages) -> fixations; raises ValueError starting with the name."""


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """One sample: its files relative to the source folder, and its fixations.

    key: `split/stem`.  fixations: the fixations, or the file that holds them.  density: None if
    missing or unwanted.
    """

    key: str
    image: str
    fixations: str | RawFixations
    density: str | None

    @property
    def files(self) -> tuple[str, ...]:
        """The files that belong only to this sample."""
        return tuple(
            file for file in (self.image, self.fixations, self.density) if isinstance(file, str)
        )


@dataclass(kw_only=True)
class FoundSamples:
    """The samples and faults that a layout finds.

    splits: samples by split; a single split "" if the source has none.  faults: images that lack a
    file, and files that lack their image.  unlabelled: splits of images only.
    tables: files with the fixations of many samples.  read_as: options that change their meaning.
    """

    splits: dict[str, list[RawSample]] = field(default_factory=dict)
    faults: list[Skipped] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    read_as: str = ""

    def pair(
        self,
        source: Path,
        split: str | Mapping[str, str],
        images: Mapping[str, Path],
        fixations: Mapping[str, Path | RawFixations],
        maps: Mapping[str, Path] | None,
        *,
        table: Path | None = None,
        rename: Callable[[str], str] = str,
    ) -> None:
        """Add a sample for each set of files with one name, in the order of `fixations`.

        split: one for all samples, or a split per name.  maps: None if unwanted.
        table: the file that `fixations` are from, for messages.  rename: returns a sample's name.
        """

        def relative(path: Path) -> str:
            return path.relative_to(source).as_posix()

        splits = dict.fromkeys(fixations, split) if isinstance(split, str) else split
        for own in [split] if isinstance(split, str) else split.values():
            self.splits.setdefault(own, [])
        for name in dict.fromkeys((*fixations, *images, *(maps or ()))):
            found = fixations.get(name)
            files = {"photograph": images.get(name), "fixations": found}
            if maps is not None:
                files["density map"] = maps.get(name)
            missing = [kind for kind, file in files.items() if file is None]
            if missing:
                others = [relative(file) for file in files.values() if isinstance(file, Path)]
                what = (others or [name])[0] + (f", in {table}" if table else "")
                self.faults.append(Skipped(file=what, reason=f"have no {missing[0]}"))
                continue
            assert found is not None
            self.splits[splits[name]].append(
                RawSample(
                    key=f"{splits[name]}/{rename(name)}",
                    image=relative(images[name]),
                    fixations=relative(found) if isinstance(found, Path) else found,
                    density=None if maps is None else relative(maps[name]),
                )
            )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout of source folders.

    expected_folders: its folders, for messages.  matches: whether a folder has this layout.
    find: finds its samples without opening their files.
    coordinates: None if the user states them.  read_fixations: reads the file of one sample.
    sigma: sigma in pixels of the authors' Gaussian; None if unknown.
    """

    name: str
    expected_folders: str
    matches: Callable[[Path], bool]
    find: Callable[[Path, SourceOptions], FoundSamples]
    coordinates: CoordinateSystem | None = ZERO_BASED
    read_fixations: FixationReader | None = None
    sigma: float | None = None


@dataclass(frozen=True, kw_only=True)
class RawFolder:
    """The samples and faults of a source folder; see `Layout` and `FoundSamples`.

    split_seed: seed of a random split; None if the folder has splits.
    fingerprint: changes with a file's name, size or time.
    """

    path: Path
    layout: Layout
    coordinates: CoordinateSystem
    splits: dict[str, tuple[RawSample, ...]]
    faults: tuple[Skipped, ...]
    split_seed: int | None
    unlabelled: tuple[str, ...]
    fingerprint: str

    @property
    def num_images(self) -> int:
        """The number of samples and faults."""
        return len(self.faults) + sum(len(samples) for samples in self.splits.values())

    @property
    def has_maps(self) -> bool:
        """Whether density maps come from files."""
        return any(raw.density for samples in self.splits.values() for raw in samples)


def maps_folder(folder: Path, name: str, options: SourceOptions) -> Path | None:
    """Return the folder of density maps; None if it is missing or unwanted."""
    if options.maps == "fixations" or (options.maps == "auto" and not has(folder, name)):
        return None
    return child(folder, name)


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedSample:
    """A sample read from the raw folder, and the number of dropped fixations.

    density: (H, W) uint8, the decoded density map.
    density_cc: correlation of a map from a file with one made from the fixations, or None.
    """

    sample: Sample
    density: NDArray[np.uint8]
    num_points_outside: int
    num_empty_observers: int
    density_cc: float | None


def read(folder: RawFolder, raw: RawSample, sigma: float | None = None) -> CheckedSample:
    """Read one sample; check that its pictures decode, sizes agree and there are fixations.

    A fixation is rounded to the nearest pixel, halves to the right and down.  If it is then outside
    the photograph, or not a number, it is dropped and counted.
    sigma: sigma in pixels of the Gaussian that makes a missing density map.
    Raises IncompleteSampleError naming the file.
    """
    try:
        image = stored_pictures.as_stored((folder.path / raw.image).read_bytes(), raw.image)
        size = decode_picture(image, raw.image).shape[:2]
        sizes = {raw.image: size}
        if isinstance(raw.fixations, str):
            read_fixations = folder.layout.read_fixations
            assert read_fixations is not None
            fixation_file = raw.fixations
            fixations = read_fixations(folder.path / fixation_file, fixation_file)
        else:
            fixation_file, fixations = f"the fixations of {raw.image}", raw.fixations
        if fixations.size:
            sizes[fixation_file] = fixations.size
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
    pixels = np.floor(folder.coordinates.to_pixels(fixations.points, size) + 0.5)
    inside = ((pixels >= 0) & (pixels < size[::-1])).all(axis=1)
    if not inside.any():
        missing = " in the picture (--units, --origin?)" if len(pixels) else ""
        raise IncompleteSampleError(fixation_file, f"have no fixations{missing}")
    points = pixels[inside].astype(np.int32)
    density_cc = None
    if density is None:
        assert sigma is not None
        density = stored_pictures.draw_density(points, size, sigma)
    elif density.any():
        density_cc = stored_pictures.map_correlation(density, points, sigma)
    else:
        raise IncompleteSampleError(str(raw.density), "have a density map of zeros")
    return CheckedSample(
        sample=Sample(
            key=raw.key,
            image=image,
            points=points,
            observers=fixations.observers[inside],
            density=stored_pictures.encode_density(density),
            timing=None if fixations.timing is None else fixations.timing[inside],
        ),
        density=density,
        num_points_outside=int((~inside).sum()),
        num_empty_observers=fixations.num_empty_observers,
        density_cc=density_cc,
    )
