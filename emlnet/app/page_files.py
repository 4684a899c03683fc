"""The files of the page: pictures that visitors upload, and maps that they download.

Visitors are not trusted: only files below the page's own folder are opened.
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
from emlnet.data.images import UPLOAD_FORMATS, decode_picture
from emlnet.inference.predictor import Prediction

MAX_PIXELS = 25_000_000
"""Pixels of the largest picture that the page accepts."""
MAX_BYTES = 50_000_000
"""Bytes of the largest file that the page accepts."""
KEEP_SECONDS = 3600
"""Lifetime of an upload, a result and a visitor's session."""


@dataclass(frozen=True, kw_only=True)
class ResultFiles:
    """Files of a prediction; the page redraws it from them when a slider moves."""

    photograph: Path
    png: Path
    npy: Path


@dataclass(frozen=True, kw_only=True)
class PageFiles:
    """The page's own folder: Gradio stores uploads in it, and this class stores results."""

    folder: Path

    def read(self, path: Path | str | None) -> NDArray[np.uint8]:
        """Read an upload as (H, W, 3) uint8 RGB.

        Raises ValueError unless it is a picture in a regular file of at most 50 MB below the
        folder.  The message does not reveal whether other files exist.
        """
        data = b""
        with suppress(OSError, ValueError):
            found = Path(path or "").resolve()
            inside = found.is_relative_to(self.folder.resolve()) and found.is_file()
            if inside and found.stat().st_size <= MAX_BYTES:
                data = found.read_bytes()
        if not data:
            raise ValueError(f"send a picture of at most {MAX_BYTES // 10**6} MB")
        return decode_picture(data, found.name, MAX_PIXELS, UPLOAD_FORMATS)

    def keep(self, photograph: Path, prediction: Prediction) -> ResultFiles:
        """Write a prediction's files into the folder and remove expired ones."""
        for old in self.folder.glob("result-*"):
            with suppress(FileNotFoundError):  # Another request removed it.
                if time.time() - old.stat().st_mtime > KEEP_SECONDS:
                    shutil.rmtree(old)
        stem = f"{tempfile.mkdtemp(prefix='result-', dir=self.folder)}/{photograph.stem}_smap"
        png, npy = Path(f"{stem}.png"), Path(f"{stem}.npy")
        Image.fromarray(prediction.picture()).save(png)
        np.save(npy, prediction.saliency, allow_pickle=False)
        return ResultFiles(photograph=photograph, png=png, npy=npy)

    def overlay(self, result: ResultFiles, strength: float, contour: bool) -> NDArray[np.uint8]:
        """Return the picture (H, W, 3) under its map; ValueError if the files have expired."""
        if not (result.npy.exists() and result.photograph.exists()):
            raise ValueError("the result has expired; drop the picture again")
        grey = np.asarray(Image.open(result.png), np.float32) / 255
        overlaid = overlay(self.read(result.photograph), grey, strength)
        return draw_contours(overlaid, np.load(result.npy)) if contour else overlaid

    def write_example(self) -> Path:
        """Draw a picture to try the page with: a ball and a sun over a meadow."""
        image = Image.new("RGB", (640, 480), (165, 205, 235))
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 330, 640, 480), fill=(95, 140, 70))
        draw.ellipse((470, 50, 550, 130), fill=(255, 240, 170))
        draw.ellipse((180, 260, 300, 380), fill=(205, 40, 35))
        draw.ellipse((208, 280, 236, 308), fill=(245, 150, 140))
        image.save(self.folder / "example.png")
        return self.folder / "example.png"
