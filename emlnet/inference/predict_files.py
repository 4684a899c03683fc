"""`emlnet predict`: maps of pictures from files, folders and globs, each at its own size."""

from __future__ import annotations

import glob
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emlnet.atomic_files import replace_file
from emlnet.data.drawing import colour_map, draw_contours, overlay, side_by_side
from emlnet.data.images import FORMATS, SUFFIXES, files_below, read_picture
from emlnet.inference.package import Package
from emlnet.inference.predictor import Prediction

SECONDS_BETWEEN_LINES = 1.0

Format = Literal["png", "png16", "npy", "log-npy"]


@dataclass(frozen=True, kw_only=True)
class OutputFiles:
    """The files to write for each picture; see the flags of `emlnet predict`.

    top: the value drawn as white, see `Prediction.grey`; None: each map's maximum.
    model: its name, for the figure.
    """

    format: Format = "png"
    overlay: bool = False
    contour: bool = False
    figure: bool = False
    top: float | None = None
    model: str = ""

    @property
    def ending(self) -> str:
        """The suffix of each map's file name, after the stem of its picture."""
        return "_smap.npy" if self.format.endswith("npy") else "_smap.png"

    def write(self, stem: Path, picture: NDArray[np.uint8], prediction: Prediction) -> Path:
        """Write a picture's files, each whole or not at all, and return the map's path.

        stem: the files' path without `_smap.png`.  picture: (H, W, 3) uint8.
        """
        grey = prediction.grey(self.top)
        drawn = overlay(picture, grey) if self.overlay or self.figure else picture
        drawn = draw_contours(drawn, prediction.saliency) if self.contour else drawn
        if self.overlay or self.contour:
            _save(drawn, stem, "_overlay.png" if self.overlay else "_contour.png")
        if self.figure:
            scale = "the map's minimum to its maximum"
            if self.top is not None:
                unit = " times a uniform density" if prediction.kind == "density" else ""
                scale = f"0 to {self.top:.3g}{unit}, the same for all pictures"
            panels = [("photograph", picture), ("map", colour_map(grey)), ("overlay", drawn)]
            caption = f"{stem.name}, by {self.model}. Dark to light: {scale}"
            _save(np.asarray(side_by_side(panels, caption)), stem, "_figure.png")
        # Write the map last: if it exists, the other files do, too.
        if self.format == "npy":
            return _save(prediction.saliency, stem, self.ending)
        if self.format == "log-npy":
            return _save(prediction.log_density, stem, self.ending)
        return _save(prediction.picture(self.top, self.format == "png16"), stem, self.ending)


def _save(values: NDArray[np.generic], stem: Path, ending: str) -> Path:
    path = stem.with_name(f"{stem.name}{ending}")
    with replace_file(path, durable=False) as temporary:
        if ending.endswith("npy"):
            np.save(temporary, values, allow_pickle=False)
        else:
            Image.fromarray(values).save(temporary)
    return path


def find_pictures(given: Sequence[str], out: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Return each picture with the path stem of its results below `out`, and the skipped files.

    given: files, folders and glob patterns.  Folders are searched recursively, except `out`, and
    keep their structure below `out`; their files of other formats are skipped.  Named files are
    always tried.
    Raises ValueError for a folder or pattern without pictures, for a folder that is `out`, and for
    two pictures whose results would have the same path.
    """
    found: list[tuple[Path, Path]] = []
    left_out: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside, others = _search(path, out)
            if not inside:
                held = f"; it holds {_listed(others)}" if others else ""
                raise ValueError(f"{path} holds no pictures ({', '.join(FORMATS)}){held}")
            found += [(p, out / p.relative_to(path).with_suffix("")) for p in inside]
            left_out += others
        elif glob.has_magic(text) and not path.exists():
            matched = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207
            files = [p for p in matched if p.is_file()]
            if not files:
                raise ValueError(f"no file matches {text}")
            found += [(p, out / p.stem) for p in files]
        else:
            found.append((path, out / path.stem))
    if not found:
        raise ValueError("name at least one picture, folder or pattern")
    check_stems([str(stem) for _, stem in found])
    return found, left_out


def check_stems(stems: Sequence[str]) -> None:
    """Raise ValueError if the maps of two pictures would have the same path."""
    twice = sorted(Path(stem).name for stem, count in Counter(stems).items() if count > 1)
    if twice:
        raise ValueError(
            "pictures with the same name would overwrite each other's maps: "
            f"{', '.join(twice[:5])}; rename them, or predict them into different folders"
        )


def _search(folder: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """Return the pictures and the other files below a folder, without those below `out`."""
    root, results = folder.resolve(), out.resolve()
    if results == root:
        raise ValueError(
            f"{out} is the folder of the pictures, so the next run would take its maps for "
            f"pictures; name another with --out, such as {out / 'maps'}"
        )
    found = files_below(folder)
    if results.is_relative_to(root):
        below = folder / results.relative_to(root)
        found = [path for path in found if not path.is_relative_to(below)]
    pictures = [path for path in found if path.suffix.lower() in SUFFIXES]
    return pictures, [path for path in found if path.suffix.lower() not in SUFFIXES]


def _listed(files: Sequence[Path], num: int = 10) -> str:
    more = f" and {len(files) - num} more" if len(files) > num else ""
    names = ", ".join(path.name for path in files[:num])
    return f"{len(files)} file{'s' if len(files) > 1 else ''} ({names}{more})"


def predict_all(
    model: Package,
    pictures: Sequence[tuple[Path, Path]],
    output_files: OutputFiles,
    flip: bool = False,
    batch_size: int = 8,
    same_scale: bool = False,
) -> list[str]:
    """Predict every picture, with progress; return an error message for each unreadable one.

    same_scale: draw all maps from 0 to the highest value of all; predicts every picture twice.
    """
    if same_scale:
        print("predicting everything twice: once for the scale, once for the maps", flush=True)
        results = _predict(model, pictures, flip, batch_size)
        tops = [result[2].values().max() for result in results if not isinstance(result, str)]
        output_files = replace(output_files, top=float(max(tops, default=1)))
    began, done, failed = time.perf_counter(), 0, []
    last = began
    with ThreadPoolExecutor(2) as writers:
        writing = []
        for result in _predict(model, pictures, flip, batch_size):
            if isinstance(result, str):
                failed.append(result)
            else:
                writing.append(writers.submit(output_files.write, *result))
            done += 1
            while len(writing) > 2 * batch_size or (writing and done == len(pictures)):
                writing.pop(0).result()
            now = time.perf_counter()
            if now - last > SECONDS_BETWEEN_LINES or done == len(pictures):
                last = now
                rate = (done - len(failed)) / (now - began)
                print(f"[{done}/{len(pictures)}] {rate:.1f} pictures a second", flush=True)
    return failed


def _predict(
    model: Package, pictures: Sequence[tuple[Path, Path]], flip: bool, batch_size: int
) -> Iterator[tuple[Path, NDArray[np.uint8], Prediction] | str]:
    """Yield for each picture its stem, pixels and prediction, or why it is unreadable."""
    parts = [pictures[k : k + batch_size] for k in range(0, len(pictures), batch_size)]
    with ThreadPoolExecutor(2) as readers:
        ahead = readers.map(_read, parts[0])
        for part, after in zip(parts, [*parts[1:], []], strict=True):
            read, ahead = list(ahead), readers.map(_read, after)
            pictures_read = [pixels for pixels in read if not isinstance(pixels, str)]
            predictions = iter(model.predict_batch(pictures_read, flip))
            for (_, stem), pixels in zip(part, read, strict=True):
                yield pixels if isinstance(pixels, str) else (stem, pixels, next(predictions))


def _read(item: tuple[Path, Path]) -> NDArray[np.uint8] | str:
    try:
        return read_picture(item[0])
    except ValueError as error:
        return str(error)


def print_left_out(files: Sequence[Path]) -> None:
    """Print to stderr the files in folders that are skipped because of their format."""
    if files:
        print(f"skipped, not in a picture format: {_listed(files)}", file=sys.stderr)


def print_failed(failed: Sequence[str]) -> None:
    """Print to stderr which pictures could not be read, and why."""
    if failed:
        print("could not be read:", *failed, sep="\n  ", file=sys.stderr)
