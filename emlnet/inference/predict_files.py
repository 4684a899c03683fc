"""`emlnet predict`: maps of many pictures from files, folders and globs, each at its own size."""

from __future__ import annotations

import glob
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

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
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The files to write for each picture.

    format: `png`, the map min-max to 0..255; `png16`, to 0..65535; `npy`, the map itself in
    float32, a density sums to 1; `log-npy`, the log-density.  overlay: <stem>_overlay.png, the map
    laid over the picture.  contour: lines around what holds 25, 50 and 75 % of the map, on the
    overlay, or on the picture as <stem>_contour.png.  figure: <stem>_figure.png, all in a row.
    """

    format: Format = "png"
    overlay: bool = False
    contour: bool = False
    figure: bool = False

    def write(self, picture: NDArray[np.uint8], prediction: Prediction, stem: Path) -> Path:
        """Write a picture's files, each whole or not at all, and return the map's path.

        picture: (H, W, 3) uint8.  stem: the files' path without `_smap.png`.
        """
        if self.overlay or self.figure:
            grey = prediction.grey()
            laid = overlay(picture, grey)
            laid = draw_contours(laid, prediction.saliency) if self.contour else laid
        if self.overlay:
            _save(laid, _beside(stem, "_overlay.png"))
        elif self.contour:
            _save(draw_contours(picture, prediction.saliency), _beside(stem, "_contour.png"))
        if self.figure:
            row = side_by_side([("photograph", picture), ("map", heat(grey)), ("overlay", laid)])
            _save(np.asarray(row), _beside(stem, "_figure.png"))
        # The map comes last: whoever finds it finds the others.
        if self.format in ("npy", "log-npy"):
            path = _beside(stem, "_smap.npy")
            values = prediction.saliency if self.format == "npy" else prediction.log_density
            with replace_file(path, durable=False) as temporary:
                np.save(temporary, values, allow_pickle=False)
            return path
        wide = self.format == "png16"
        return _save(
            prediction.picture16() if wide else prediction.picture(), _beside(stem, "_smap.png")
        )


def _save(pixels: NDArray[np.uint8] | NDArray[np.uint16], path: Path) -> Path:
    with replace_file(path, durable=False) as temporary:
        Image.fromarray(pixels).save(temporary)
    return path


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}{ending}")


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


def predict_all(
    model: Package,
    pictures: Sequence[tuple[Path, Path]],
    drawing: Drawing,
    flip: bool = False,
    batch_size: int = 8,
) -> list[str]:
    """Predict every picture with progress, and return a line for each that failed.

    Threads read pictures and write maps while the model computes.  Pictures of one size that follow
    each other are computed together, at most `batch_size`.
    """
    failed: list[str] = []
    began = last = time.perf_counter()
    done = 0
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(2) as writers:
        read = ahead(readers, lambda item: _read(*item), pictures, 2 * batch_size)
        writing: list[Future[Path]] = []
        for batch in batches(read, batch_size):
            if isinstance(batch, str):
                failed.append(batch)
                done += 1
            else:
                predictions = model.predict_batch([pixels for pixels, _ in batch], flip)
                for (pixels, stem), prediction in zip(batch, predictions, strict=True):
                    writing.append(writers.submit(drawing.write, pixels, prediction, stem))
                done += len(batch)
            while len(writing) > 2 * batch_size or (writing and done == len(pictures)):
                writing.pop(0).result()
            now = time.perf_counter()
            if now - last > SECONDS_BETWEEN_LINES or done == len(pictures):
                last = now
                rate = (done - len(failed)) / (now - began)
                print(f"[{done}/{len(pictures)}] {rate:.1f} pictures a second", flush=True)
    predicted = len(pictures) - len(failed)
    print(f"{predicted} pictures, {predicted / (last - began):.1f} a second")
    return failed


def _read(path: Path, stem: Path) -> tuple[NDArray[np.uint8], Path] | str:
    """Return a picture's pixels and stem, or the reason why it cannot be read."""
    try:
        return read_picture(path), stem
    except ValueError as error:
        return str(error)


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Answer], items: Iterable[Item], num: int
) -> Iterator[Answer]:
    """Yield the answers in order; the pool computes at most `num` items ahead."""
    rest = iter(items)
    waiting = [pool.submit(function, item) for item in itertools.islice(rest, num)]
    while waiting:
        answer = waiting.pop(0).result()
        waiting += [pool.submit(function, item) for item in itertools.islice(rest, 1)]
        yield answer


def batches(
    read: Iterable[tuple[NDArray[np.uint8], Path] | str], size: int
) -> Iterator[list[tuple[NDArray[np.uint8], Path]] | str]:
    """Yield pictures of one size that follow each other, at most `size` together, and errors."""
    batch: list[tuple[NDArray[np.uint8], Path]] = []
    for item in read:
        changes = isinstance(item, str) or (batch and item[0].shape != batch[0][0].shape)
        if batch and (changes or len(batch) == size):
            yield batch
            batch = []
        if isinstance(item, str):
            yield item
        else:
            batch.append(item)
    if batch:
        yield batch


def say_left_out(files: Sequence[Path]) -> None:
    """Say on stderr which files of the folders are not pictures of the formats read."""
    if files:
        print(f"left out, of other formats: {_listed(files)}", file=sys.stderr)


def say_failed(failed: Sequence[str]) -> None:
    """List on stderr what could not be read."""
    if failed:
        print("could not be read:", *(f"  {line}" for line in failed), sep="\n", file=sys.stderr)


def _listed(files: Sequence[Path], num: int = 10) -> str:
    more = f" and {len(files) - num} more" if len(files) > num else ""
    return (
        f"{len(files)} file{'s'[: len(files) > 1]} ({', '.join(p.name for p in files[:num])}{more})"
    )
