"""Small data sets on disk as their authors lay them out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from tests.shards.conftest import Raw, encode_picture

POINTS = {
    "1001": [[(3.4, 2.6), (40, 30)], [], [(1, 1)]],
    "1002": [[(20, 15)], [(21, 15), (22.5, 16)], [(5, 6)]],
    "1003": [[(7, 8)], [(9, 10)], [(11, 12)]],
}
"""By image, each observer's one-based (x, y)."""


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def salicon(root: Path) -> Path:
    """Two photographs in train, one in val."""
    for stem in ("train/a", "train/b", "val/c"):
        Raw(root).add(stem)
    return root


def csv(root: Path) -> Path:
    """A table of two photographs without splits."""
    return table(root, "image,x,y\na,5,6\na,20,9\nb,30,20\n")


def osie(root: Path) -> Path:
    """`data/stimuli`, `data/eye/fixations.mat`: a cell per image, in it a cell per subject."""
    cells = np.empty((len(POINTS), 1), object)
    for row, (stem, observers) in enumerate(POINTS.items()):
        put(root / f"data/stimuli/{stem}.jpg", encode_picture(seed=row))
        subjects = np.empty((len(observers), 1), object)
        for number, points in enumerate(observers):
            x, y = np.array(points, np.float64).reshape(-1, 2).T
            subjects[number, 0] = {
                "fix_x": x[None],
                "fix_y": y[None],
                "fix_duration": (200 + 10.0 * np.arange(len(x)))[None],
            }
        cells[row, 0] = {"img": f"{stem}.jpg", "subjects": subjects}
    file = io.BytesIO()
    scipy.io.savemat(file, {"fixations": cells})
    put(root / "data/eye/fixations.mat", file.getvalue())
    return root


def mit1003(root: Path) -> Path:
    """Photographs of several sizes, points and maps as JPEGs."""
    for number, size in enumerate([(30, 40), (40, 30), (24, 48)]):
        put(root / f"ALLSTIMULI/i{number}.jpeg", encode_picture(size, seed=number))
        points = np.zeros(size, np.uint8)
        points[4 + number, 9] = points[12, 2] = 255
        put(root / f"ALLFIXATIONMAPS/i{number}_fixPts.jpg", encode_jpeg(points, quality=95))
        put(root / f"ALLFIXATIONMAPS/i{number}_fixMap.jpg", encode_jpeg(ramp(size)))
    return root


def cat2000(root: Path) -> Path:
    """Two categories; a folder Output beside the photographs; testSet without gaze."""
    for category in ("Action", "Art"):
        for number in (1, 2):
            stem = f"{category}/{number:03d}"
            put(root / f"trainSet/Stimuli/{stem}.jpg", encode_picture(seed=number))
            put(root / f"trainSet/Stimuli/{category}/Output/{number:03d}_SaliencyMap.jpg", b"no")
            put(root / f"trainSet/FIXATIONMAPS/{stem}.jpg", encode_jpeg(ramp((30, 40))))
            locations = np.zeros((30, 40), np.uint8)
            locations[29, 39] = locations[number, 5] = 1
            file = io.BytesIO()
            scipy.io.savemat(file, {"fixLocs": locations})
            put(root / f"trainSet/FIXATIONLOCS/{stem}.mat", file.getvalue())
    put(root / "testSet/Stimuli/Action/001.jpg", encode_picture())
    return root


def salicon_json(root: Path, first_id: int = 9) -> Path:
    """A table a split beside `images/<split>/`; points are one-based rows and columns."""
    for split in ("train", "val"):
        name = f"COCO_{split}2014_{first_id:012d}"
        put(root / f"images/{split}/{name}.jpg", encode_picture())
        content = {
            "info": {"version": "r1"},
            "images": [{"id": first_id, "file_name": f"{name}.jpg", "height": 30, "width": 40}],
            "annotations": [
                {"image_id": first_id, "worker_id": 7, "fixations": [[1, 2], [30, 40]]},
                {"image_id": first_id, "worker_id": 8, "fixations": []},
                {"image_id": first_id, "worker_id": 9, "fixations": [[5, 6]]},
            ],
        }
        put(root / f"fixations_{split}2014.json", json.dumps(content).encode())
    return root


def table(root: Path, rows: str, images: tuple[str, ...] = ("a.jpg", "b.png")) -> Path:
    """`fixations.csv` beside `images/`, of the usual size."""
    for name in images:
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name[-3:].upper())
        put(root / "images" / name, encode_picture(kind=kind, seed=len(name)))
    put(root / "fixations.csv", rows.encode())
    return root


def encode_jpeg(pixels: np.ndarray, **options: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def ramp(size: tuple[int, int]) -> np.ndarray:
    """A grey picture that no fixation makes: brighter and brighter to the right."""
    return np.tile(np.linspace(0, 255, size[1]).astype(np.uint8), (size[0], 1))
