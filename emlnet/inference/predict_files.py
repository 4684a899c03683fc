"""`emlnet predict`: maps of many pictures from files, folders and globs, each at its own size."""

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
from emlnet.data.drawing import draw_contours, heat, overlay, side_by_side
from emlnet.data.images import FORMATS, SUFFIXES, files_below, read_picture
from emlnet.inference.package import Package
from emlnet.inference.predictor import Prediction

SECONDS_BETWEEN_LINES = 1.0

Format = Literal["png", "png16", "npy", "log-npy"]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The files to write for each picture; the flags of `emlnet predict` explain them.

    top: the value that is drawn as white, see `Prediction.grey`; None: each map's greatest.
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
        """The end of each map's name, after the stem of its picture."""
        return "_smap.npy" if self.format.endswith("npy") else "_smap.png"

    def write(self, stem: Path, picture: NDArray[np.uint8], prediction: Prediction) -> Path:
        """Write a picture's files, each whole or not at all, and return the map's path.

        stem: the files' path without `_smap.png`.  picture: (H, W, 3) uint8.
        """
        grey = prediction.grey(self.top)
        laid = overlay(picture, grey) if self.overlay or self.figure else picture
        laid = draw_contours(laid, prediction.saliency) if self.contour else laid
        if self.overlay or self.contour:
            _save(laid, stem, "_overlay.png" if self.overlay else "_contour.png")
        if self.figure:
            scale = "its least to its greatest value"
            if self.top is not None:
                unit = " times a uniform density" if prediction.kind == "density" else ""
                scale = f"0 to {self.top:.3g}{unit}, the same for all pictures"
            panels = [("photograph", picture), ("map", heat(grey)), ("overlay", laid)]
            caption = f"{stem.name}, by {self.model}. Dark to light: {scale}"
            _save(np.asarray(side_by_side(panels, caption)), stem, "_figure.png")
        # The map comes last: whoever finds it finds the others.
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
    """Return each picture with the stem of its answers below `out`, and the files left out.

    given: files, folders (searched through but for `out`, their shape kept below it), and glob
    patterns.  Files of other formats are left out of folders; a file that is named is always tried.
    Raises ValueError for a folder or pattern without pictures, a folder that is `out`, and for two
    pictures whose answers would overwrite each other.
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
    """Raise ValueError when the maps of two pictures would have one path."""
    twice = sorted(Path(stem).name for stem, count in Counter(stems).items() if count > 1)
    if twice:
        raise ValueError(
            f"maps of pictures of one name would overwrite each other: {', '.join(twice[:5])}; "
            "rename them, or predict them into different folders"
        )


def _search(folder: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """Return the pictures below a folder and its other files, but for what is below `out`."""
    root, answers = folder.resolve(), out.resolve()
    if answers == root:
        raise ValueError(
            f"{out} is the folder of the pictures, so the next run would take its maps for "
            f"pictures; name another with --out, such as {out / 'maps'}"
        )
    found = files_below(folder)
    if answers.is_relative_to(root):
        own = folder / answers.relative_to(root)
        found = [path for path in found if not path.is_relative_to(own)]
    pictures = [path for path in found if path.suffix.lower() in SUFFIXES]
    return pictures, [path for path in found if path.suffix.lower() not in SUFFIXES]


def _listed(files: Sequence[Path], num: int = 10) -> str:
    more = f" and {len(files) - num} more" if len(files) > num else ""
    names = ", ".join(path.name for path in files[:num])
    return f"{len(files)} file{'s' if len(files) > 1 else ''} ({names}{more})"


def predict_all(
    model: Package,
    pictures: Sequence[tuple[Path, Path]],
    drawing: Drawing,
    flip: bool = False,
    batch_size: int = 8,
    same_scale: bool = False,
) -> list[str]:
    """Predict every picture with progress; return the reason for each that could not be read.

    same_scale: draw all maps on the scale of the highest one, which is found by predicting all
    pictures twice.
    """
    if same_scale:
        print("predicting everything twice: once for the scale, once for the maps", flush=True)
        every = _predict(model, pictures, flip, batch_size)
        tops = [each[2].values().max() for each in every if not isinstance(each, str)]
        drawing = replace(drawing, top=float(max(tops, default=1)))
    began, done, failed = time.perf_counter(), 0, []
    last = began
    with ThreadPoolExecutor(2) as writers:
        writing = []
        for each in _predict(model, pictures, flip, batch_size):
            if isinstance(each, str):
                failed.append(each)
            else:
                writing.append(writers.submit(drawing.write, *each))
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
    """Yield stem, pixels and prediction of each picture, or why it could not be read.

    Pictures are read while those before them are computed.
    """
    parts = [pictures[k : k + batch_size] for k in range(0, len(pictures), batch_size)]
    with ThreadPoolExecutor(2) as readers:
        ahead = readers.map(_read, parts[0])
        for part, after in zip(parts, [*parts[1:], []], strict=True):
            read, ahead = list(ahead), readers.map(_read, after)
            pixels = [each for each in read if not isinstance(each, str)]
            predictions = iter(model.predict_batch(pixels, flip))
            for (_, stem), each in zip(part, read, strict=True):
                yield each if isinstance(each, str) else (stem, each, next(predictions))


def _read(item: tuple[Path, Path]) -> NDArray[np.uint8] | str:
    """Return a picture's pixels, or the reason why it cannot be read."""
    try:
        return read_picture(item[0])
    except ValueError as error:
        return str(error)


def say_left_out(files: Sequence[Path]) -> None:
    """Say on stderr which files of the folders are not pictures of the formats read."""
    if files:
        print(f"left out, of other formats: {_listed(files)}", file=sys.stderr)


def say_failed(failed: Sequence[str]) -> None:
    """Say on stderr what could not be read."""
    if failed:
        print("could not be read:", *failed, sep="\n  ", file=sys.stderr)
