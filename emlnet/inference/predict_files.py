"""`emlnet predict`: many pictures from files, folders and globs, each map at its own size."""

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

from emlnet.data.images import draw_contours, files_below, heat, overlay, read_picture, side_by_side
from emlnet.inference.package import Package
from emlnet.inference.predictor import Prediction

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""What counts as a picture when a folder is given; a file that is named is always tried."""
SECONDS_BETWEEN_LINES = 1.0

Format = Literal["png", "png16", "npy", "log-npy"]
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is written for each picture.

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
        """Writes a picture's files, each whole or not at all, and returns the map's.

        picture: (H, W, 3) uint8.  stem: the files' path without `_smap.png`.
        """
        if self.overlay or self.figure:
            grey = prediction.grey()
            laid = overlay(picture, grey)
            laid = draw_contours(laid, prediction.saliency) if self.contour else laid
        if self.overlay:
            _write(_beside(stem, "_overlay.png"), lambda to: _save(laid, to))
        elif self.contour:
            drawn = draw_contours(picture, prediction.saliency)
            _write(_beside(stem, "_contour.png"), lambda to: _save(drawn, to))
        if self.figure:
            panels = [("photograph", picture), ("map", heat(grey)), ("overlay", laid)]
            row = side_by_side(panels)
            _write(_beside(stem, "_figure.png"), lambda to: row.save(to, "PNG"))
        return self._write_map(prediction, stem)

    def _write_map(self, prediction: Prediction, stem: Path) -> Path:
        """The map, last: whoever finds it finds the others."""
        if self.format in ("npy", "log-npy"):
            log = self.format == "log-npy"
            values = prediction.log_density if log else prediction.saliency
            return _write(_beside(stem, "_smap.npy"), lambda to: _save_array(values, to))
        wide = self.format == "png16"
        pixels = prediction.picture16() if wide else prediction.picture()
        return _write(_beside(stem, "_smap.png"), lambda to: _save(pixels, to))


def _save(pixels: NDArray[np.uint8] | NDArray[np.uint16], path: Path) -> None:
    Image.fromarray(pixels).save(path, "PNG")


def _save_array(values: NDArray[np.float32], path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}{ending}")


def _write(path: Path, save: Callable[[Path], None]) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    save(temporary)
    temporary.replace(path)
    return path


def find_pictures(given: Sequence[str], out: Path) -> list[tuple[Path, Path]]:
    """Each picture and the stem of its answers below `out`.

    given: files, folders (searched through but for `out`, their shape kept below it), and glob
    patterns.  Raises ValueError for a folder or pattern without pictures, a folder that is `out`,
    and for two pictures whose answers would overwrite each other.
    """
    found: list[tuple[Path, Path]] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = _search(path, out)
            if not inside:
                raise ValueError(f"{path} holds no pictures ({', '.join(SUFFIXES)})")
            found += [(p, out / p.relative_to(path).with_suffix("")) for p in inside]
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
    return found


def check_stems(stems: Sequence[str]) -> None:
    """Raises ValueError when the answers of two pictures would have one path."""
    twice = sorted(Path(stem).name for stem, count in Counter(stems).items() if count > 1)
    if twice:
        raise ValueError(
            f"maps of pictures of one name would overwrite each other: {', '.join(twice[:5])}; "
            "rename them, or predict them apart, each into a folder of its own"
        )


def _search(folder: Path, out: Path) -> list[Path]:
    """The pictures below a folder, in order, but for what is below `out`."""
    root, answers = folder.resolve(), out.resolve()
    if answers == root:
        raise ValueError(
            f"{out} is the folder of the pictures, so the next run would take its maps for some; "
            f"name another with --out, {out / 'maps'} may be one"
        )
    found = files_below(folder, SUFFIXES)
    if not answers.is_relative_to(root):
        return found
    own = folder / answers.relative_to(root)
    return [path for path in found if not path.is_relative_to(own)]


def predict_all(
    model: Package,
    pictures: Sequence[tuple[Path, Path]],
    drawing: Drawing,
    flip: bool = False,
    batch_size: int = 8,
) -> list[str]:
    """Predicts every picture, shows progress, and returns what went wrong, a line a picture.

    Pictures are read and answers written by threads while the model computes; pictures that follow
    each other and have one size are computed together, at most `batch_size`.
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
    """A picture's pixels, or why it cannot be read."""
    try:
        return read_picture(path), stem
    except ValueError as error:
        return str(error)


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Answer], items: Iterable[Item], num: int
) -> Iterator[Answer]:
    """The answers in order, computed by the pool at most `num` items ahead of their use."""
    rest = iter(items)
    waiting = [pool.submit(function, item) for item in itertools.islice(rest, num)]
    while waiting:
        answer = waiting.pop(0).result()
        waiting += [pool.submit(function, item) for item in itertools.islice(rest, 1)]
        yield answer


def batches(
    read: Iterable[tuple[NDArray[np.uint8], Path] | str], size: int
) -> Iterator[list[tuple[NDArray[np.uint8], Path]] | str]:
    """Pictures that follow each other and have one size, at most `size` at once; errors alone."""
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


def say_failed(failed: Sequence[str]) -> None:
    """Lists on stderr what could not be read."""
    if failed:
        print("could not be read:", *(f"  {line}" for line in failed), sep="\n", file=sys.stderr)
