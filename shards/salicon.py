"""Reads a raw folder in SALICON's layout; one-based gaze becomes zero-based here and nowhere else.

`images/`, `fixations/`, `maps/` in any spelling of case, each with a folder per split, or none at
all: then a seeded tenth becomes `val`, the rest `train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from emlnet.picture import decode_picture, open_picture, to_grey
from emlnet.sample import Decoded, Sample
from shards.codec import image_extension
from shards.layout import child, files_by_stem, fingerprint, subfolders

FOLDERS = {"images": (".jpg", ".jpeg", ".png"), "fixations": (".mat",), "maps": (".png",)}
VAL_SHARE = 0.1


class IncompleteSampleError(ValueError):
    """A sample that cannot be used.

    what: the file at fault, relative to the source, with details.  kind: ends "3 of 10 images ...".
    """

    def __init__(self, what: str, kind: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.what, self.kind = what, kind


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """The three files of one sample, relative to the source folder."""

    key: str
    image: str
    gaze: str
    density: str


@dataclass(frozen=True, kw_only=True)
class RawFolder:
    """What a source folder holds.

    splits: its samples by split, sorted by name.  faults: images that miss a file, and files that
    miss their image.  split_seed: of the split that was made, None when the folder has its own.
    unlabelled: splits of images alone.  fingerprint: changes when a file's name, size or time does.
    """

    path: Path
    splits: dict[str, tuple[RawSample, ...]]
    faults: tuple[IncompleteSampleError, ...]
    split_seed: int | None
    unlabelled: tuple[str, ...]
    fingerprint: str

    @property
    def num_images(self) -> int:
        """Samples and faults together."""
        return len(self.faults) + sum(len(samples) for samples in self.splits.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """One sample as read from the raw folder, with what was dropped from its gaze."""

    sample: Sample
    decoded: Decoded
    num_points_outside: int
    num_empty_observers: int


def walk(source: Path, splits: Sequence[str] = (), seed: int = 0) -> RawFolder:
    """Finds the samples of a raw folder; opens none of them.

    splits: those wanted, all that have gaze when empty.  seed: of the split, if one must be made.
    Raises ValueError for a missing or empty folder.
    """
    folders = {name: child(source, name) for name in FOLDERS}
    is_flat = bool(files_by_stem(folders["images"], FOLDERS["images"]))
    found = {name: subfolders(folder) for name, folder in folders.items()}
    if is_flat and found["images"]:
        raise ValueError(
            f"{folders['images']} holds both images and folders ({', '.join(found['images'])}); "
            "expected either"
        )
    labelled = ["train", "val"] if is_flat else sorted({*found["fixations"], *found["maps"]})
    wanted = list(dict.fromkeys(splits)) or labelled
    if not wanted:
        raise ValueError(f"{source} holds no samples: images/, fixations/ and maps/ are empty")
    for split in wanted:
        if split not in {*labelled, *found["images"]}:
            raise ValueError(f"{source} has no split {split!r}; it has {', '.join(labelled)}")
    if is_flat:
        samples, faults = _pair(source, "", folders)
        made = _make_split(samples, seed)
        chosen = {split: made[split] for split in wanted}
    else:
        chosen, faults = {}, []
        for split in wanted:
            chosen[split], missing = _pair(
                source, split, {name: child(folder, split) for name, folder in folders.items()}
            )
            faults += missing
    return RawFolder(
        path=source,
        splits=chosen,
        faults=tuple(faults),
        split_seed=seed if is_flat else None,
        unlabelled=() if splits else tuple(sorted(set(found["images"]) - set(labelled))),
        fingerprint=fingerprint(
            source,
            (
                (raw.key, raw.image, raw.gaze, raw.density)
                for samples in chosen.values()
                for raw in samples
            ),
        ),
    )


def read(source: Path, raw: RawSample) -> Reading:
    """Reads and checks one sample: pictures decode whole, all sizes agree, somebody looked.

    A fixation is rounded to the nearest pixel, halves up; one that is then outside 1..W, 1..H, or
    no number, is dropped and counted, never moved.
    Raises IncompleteSampleError naming the file that is at fault.
    """
    image, density = ((source / file).read_bytes() for file in (raw.image, raw.density))
    try:
        image_extension(image, raw.image)
        gaze, size = read_gaze(source / raw.gaze, raw.gaze)
        decoded_image = decode_picture(image, raw.image)
        decoded_density = to_grey(open_picture(density, raw.density))
        sizes = {
            raw.image: decoded_image.shape[:2],
            raw.density: decoded_density.shape,
            raw.gaze: size,
        }
        if len(set(sizes.values())) != 1:
            listed = ", ".join(
                f"{file} is {height} x {width}" for file, (height, width) in sizes.items()
            )
            raise ValueError(f"sizes differ: {listed}")
    except ValueError as error:
        raise IncompleteSampleError(str(error), "cannot be used") from error
    pixels = np.floor(np.concatenate(gaze) + 0.5)
    inside = ((pixels >= 1) & (pixels <= size[::-1])).all(axis=1)
    observers = np.repeat(np.arange(len(gaze), dtype=np.int32), [len(points) for points in gaze])
    if not inside.any():
        raise IncompleteSampleError(raw.gaze, "have no fixations")
    if not decoded_density.any():
        raise IncompleteSampleError(raw.density, "have a density map of zeros")
    points, observers = pixels[inside].astype(np.int32) - 1, observers[inside]
    return Reading(
        sample=Sample(
            key=raw.key, image=image, points=points, observers=observers, density=density
        ),
        decoded=Decoded(
            key=raw.key,
            image=decoded_image,
            points=points,
            observers=observers,
            density=decoded_density,
        ),
        num_points_outside=int((~inside).sum()),
        num_empty_observers=sum(not len(points) for points in gaze),
    )


def read_gaze(path: Path, name: str) -> tuple[list[NDArray[np.float64]], tuple[int, int]]:
    """Each observer's fixations (M, 2), as the file has them, and the photograph's (H, W).

    An observer without fixations, of whatever shape, is (0, 2).
    Raises ValueError starting with `name` when the file is not SALICON's.
    """
    try:
        content = scipy.io.loadmat(str(path), variable_names=("gaze", "resolution"))
        height, width = (int(value) for value in content["resolution"].ravel())
        gaze = [_observer(fixations) for fixations in content["gaze"]["fixations"].ravel()]
    except Exception as error:  # a broken .mat makes scipy raise almost anything
        raise ValueError(
            f"{name} is no .mat file of version 5 with `gaze` and `resolution`: {error!r}"
        ) from error
    if not gaze:
        gaze = [np.empty((0, 2))]
    return gaze, (height, width)


def _observer(fixations: Any) -> NDArray[np.float64]:
    # Small unsigned integers come too: as floats they can be compared and shifted safely.
    points = np.asarray(fixations, dtype=np.float64)
    if points.size == 0:
        return np.empty((0, 2))
    if points.shape == (2,):
        points = points[None]
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"fixations of shape {points.shape}, expected (M, 2)")
    return points


def _pair(
    source: Path, split: str, folders: dict[str, Path]
) -> tuple[tuple[RawSample, ...], list[IncompleteSampleError]]:
    """The samples of one split that have all three files, and the faults of those that have not."""
    files = {name: files_by_stem(folder, FOLDERS[name]) for name, folder in folders.items()}
    for name, found in files.items():
        if not found:
            raise ValueError(f"{folders[name]} is empty: expected {', '.join(FOLDERS[name])} files")
    samples, faults = [], []
    for stem in sorted(set().union(*files.values())):
        names = {
            name: found[stem].relative_to(source).as_posix()
            for name, found in files.items()
            if stem in found
        }
        if "images" not in names:
            belongs = " and ".join(names.values())
            faults.append(
                IncompleteSampleError(f"{folders['images']}/{stem}, for {belongs}", "are missing")
            )
        elif "fixations" not in names:
            faults.append(IncompleteSampleError(names["images"], "have no .mat file"))
        elif "maps" not in names:
            faults.append(IncompleteSampleError(names["images"], "have no density map"))
        else:
            samples.append(
                RawSample(
                    key=f"{split}/{stem}",
                    image=names["images"],
                    gaze=names["fixations"],
                    density=names["maps"],
                )
            )
    return tuple(samples), faults


def _make_split(samples: Sequence[RawSample], seed: int) -> dict[str, tuple[RawSample, ...]]:
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
