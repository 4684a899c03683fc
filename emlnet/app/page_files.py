"""The files of the page: pictures that visitors send, and maps that they download.

A visitor is not trusted: only files below the page's own folder are opened.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from emlnet.data.drawing import draw_contours, overlay
from emlnet.data.images import UPLOAD_FORMATS, read_picture
from emlnet.inference.predictor import Prediction

MAX_PIXELS = 25_000_000
"""Of a picture that the page takes."""
MAX_BYTES = 50_000_000
"""Of its file."""
KEEP_SECONDS = 3600
"""How long an upload, a result and a visitor's session are kept."""
EXAMPLE = "example.png"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A prediction on disk, which the page draws again when its sliders move.

    photograph: the picture's file.  png, npy: its map to download.
    """

    photograph: Path
    png: Path
    npy: Path

    def overlay(self, strength: float, contour: bool) -> NDArray[np.uint8]:
        """Return the picture (H, W, 3) with its map laid over it.

        Raises ValueError when the files have expired.
        """
        try:
            saliency = np.load(self.npy, allow_pickle=False)
            picture = read_upload(self.photograph)
        except FileNotFoundError:
            raise ValueError("the result has expired; drop the picture again") from None
        grey = np.asarray(Image.open(self.png), np.float32) / 255
        laid = overlay(picture, grey, strength)
        return draw_contours(laid, saliency) if contour else laid


@dataclass(frozen=True, kw_only=True)
class PageFiles:
    """A folder of the page's own, below which Gradio puts uploads and this class results."""

    folder: Path

    def find_upload(self, path: str | None) -> Path:
        """Return the file of an upload.

        Raises ValueError for anything but a regular file of at most 50 MB below the folder; the
        message is the same whether or not another file exists.
        """
        with suppress(OSError, ValueError):
            found = Path(path or "").resolve()
            inside = found.is_relative_to(self.folder.resolve())
            if inside and found.is_file() and found.stat().st_size <= MAX_BYTES:
                return found
        raise ValueError(f"send a picture of at most {MAX_BYTES // 10**6} MB")

    def keep(self, photograph: Path, prediction: Prediction) -> Result:
        """Write a prediction into the folder, and remove those that have expired."""
        for old in self.folder.glob("result-*"):
            with suppress(FileNotFoundError):  # Another request was faster.
                if time.time() - old.stat().st_mtime > KEEP_SECONDS:
                    shutil.rmtree(old)
        own = Path(tempfile.mkdtemp(prefix="result-", dir=self.folder))
        stem = own / photograph.stem
        png, npy = stem.with_name(f"{stem.name}_smap.png"), stem.with_name(f"{stem.name}_smap.npy")
        Image.fromarray(prediction.picture()).save(png)
        np.save(npy, prediction.saliency, allow_pickle=False)
        return Result(photograph=photograph, png=png, npy=npy)

    def write_example(self) -> Path:
        """Draw a picture to try the page with: a ball and a sun over a meadow."""
        y = np.linspace(0, 1, 240)[:, None, None]
        sky = np.broadcast_to((150 + 60 * y, 190 + 30 * y, 235 + 0 * y), (3, 240, 1, 1))
        image = Image.fromarray(np.repeat(sky[..., 0].transpose(1, 2, 0), 320, 1).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 165, 320, 240), fill=(95, 140, 70))
        draw.ellipse((235, 25, 275, 65), fill=(255, 240, 170))
        draw.ellipse((90, 130, 150, 190), fill=(205, 40, 35))
        draw.ellipse((104, 140, 118, 154), fill=(245, 150, 140))
        image.save(self.folder / EXAMPLE)
        return self.folder / EXAMPLE


def read_upload(path: Path) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 RGB of an upload.  Raises ValueError that names the file only."""
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        return read_picture(path, MAX_PIXELS, UPLOAD_FORMATS)
    except ValueError as error:
        raise ValueError(str(error).replace(f"{path.parent}/", "")) from error
