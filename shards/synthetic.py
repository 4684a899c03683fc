"""A synthetic data set in SALICON's on-disk format: pictures whose objects draw gaze."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from emlnet.atomic_files import replace_file
from shards.files.progress import progress_bar

HEIGHT, WIDTH = 480, 640
NUM_OBSERVERS = 15
SIGMA = 19.0
"""Sigma of SALICON's maps in pixels; they are truncated at about 2.5 sigma."""
TRUNCATE = 2.5
MAT_HEADER = b"MATLAB 5.0 MAT-file, a synthetic sample".ljust(116)
"""Replaces scipy's header, which contains the time of writing."""
OBJECT_SHARE, CENTRE_SHARE = 0.8, 0.15
"""Shares of fixations on objects and around the centre; the others are uniform."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SyntheticObject:
    """An object in a picture: centre and radii in pixels, angle in radians, contrast in 0..1."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    angle: float
    contrast: float

    @property
    def salience(self) -> float:
        """Large and contrasting objects draw more gaze."""
        return self.contrast**2 * math.sqrt(self.radius_x * self.radius_y)


def write_sample(out: Path, num_images: int = 60, seed: int = 0, progress: bool = True) -> None:
    """Write images/, fixations/ and maps/, four of five images in train, the others in val.

    The same image number and seed give the same bytes; an unchanged file is not written again.
    Raises ValueError for fewer than 2 images or other files in `out`.
    """
    if num_images < 2:
        raise ValueError(f"a train and a val split need at least 2 images, not {num_images}")
    num_val = max(1, num_images // 5)
    stems = {
        index: f"{'train' if index < num_images - num_val else 'val'}/synthetic_{index + 1:06d}"
        for index in range(num_images)
    }
    files = {
        out / folder / f"{stem}{suffix}"
        for stem in stems.values()
        for folder, suffix in (("images", ".jpg"), ("fixations", ".mat"), ("maps", ".png"))
    }
    files.add(out / "LICENSE")
    if out.exists():
        foreign = sorted(path for path in out.rglob("*") if path.is_file() and path not in files)
        if foreign:
            raise ValueError(f"{foreign[0]} is not part of this sample; choose an empty folder")
    with progress_bar(num_images, "sample", "image", disable=not progress) as bar:
        for index, stem in stems.items():
            rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
            picture, things = draw_picture(rng)
            gaze = draw_gaze(things, rng)
            _write(out / "images" / f"{stem}.jpg", _encode(picture, "JPEG", quality=90))
            _write(out / "fixations" / f"{stem}.mat", encode_gaze(Path(stem).name, gaze, rng))
            _write(out / "maps" / f"{stem}.png", _encode(draw_map(gaze), "PNG"))
            bar.update()
    _write(out / "LICENSE", b"CC0 1.0\n")


def draw_picture(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[SyntheticObject]]:
    """Draw 1 to 4 textured objects on a smooth, noisy background, (H, W, 3) uint8."""
    picture = _draw_background(rng)
    background_colour = picture.mean(axis=(0, 1))
    things: list[SyntheticObject] = []
    for _ in range(rng.integers(1, 5)):
        thing = _random_object(things, rng)
        if thing is None:
            continue
        things.append(thing)
        colour = rng.uniform(0, 1, 3)
        colour += 0.5 * np.sign(colour - background_colour)
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        cos, sin = np.cos(thing.angle), np.sin(thing.angle)
        u = ((x - thing.x) * cos + (y - thing.y) * sin) / thing.radius_x
        v = ((y - thing.y) * cos - (x - thing.x) * sin) / thing.radius_y
        power = rng.choice([2, 8])  # an ellipse or nearly a rectangle
        edge = np.clip((1 - (np.abs(u) ** power + np.abs(v) ** power)) * 8, 0, 1)
        stripes = np.sign(np.sin(u * rng.uniform(5, 12))) * np.sign(
            np.sin(v * rng.choice([0.01, 9]))
        )
        shade = 0.25 * stripes + _noise(rng, 24, 0.15)
        surface = np.clip(colour + shade[..., None], 0, 1)
        alpha = (edge * (0.25 + 0.75 * thing.contrast))[..., None]
        picture = (1 - alpha) * picture + alpha * surface
    return (picture.clip(0, 1) * 255).round().astype(np.uint8), things


def draw_gaze(things: list[SyntheticObject], rng: np.random.Generator) -> list[Floats]:
    """Return each observer's fixations (M, 2), one-based whole (x, y); M is 0 for a few."""
    weights = np.array([thing.salience for thing in things])
    gaze = []
    for _ in range(NUM_OBSERVERS):
        num = 0 if rng.random() < 0.04 else rng.integers(6, 16)
        points = np.empty((num, 2), np.float32)
        for row in range(num):
            source = rng.random()
            thing = things[rng.choice(len(things), p=weights / weights.sum())]
            if source < OBJECT_SHARE:
                along, across = rng.normal(0, 0.4, 2) * (thing.radius_x, thing.radius_y)
                cos, sin = np.cos(thing.angle), np.sin(thing.angle)
                points[row] = (
                    thing.x + along * cos - across * sin,
                    thing.y + along * sin + across * cos,
                )
            elif source < OBJECT_SHARE + CENTRE_SHARE:
                points[row] = rng.normal((WIDTH / 2, HEIGHT / 2), (WIDTH / 8, HEIGHT / 8))
            else:
                points[row] = rng.uniform(1, (WIDTH, HEIGHT))
        gaze.append(np.floor(points + 0.5).clip(1, (WIDTH, HEIGHT)))
    return gaze


def encode_gaze(name: str, gaze: list[Floats], rng: np.random.Generator) -> bytes:
    """Encode a .mat file like SALICON's: image, resolution, and a struct per observer.

    Shapes of empty observers and types of numbers vary as in SALICON's own files.
    """
    fields = [("location", object), ("timestamp", object), ("fixations", object)]
    table = np.empty((len(gaze), 1), fields)
    for observer, points in enumerate(gaze):
        kinds = ["float64", "uint16"] + ["uint8"] * bool(len(points) and points.max() < 256)
        fixations = points.astype(rng.choice(kinds))
        if not len(points):
            fixations = np.empty([(0, 2), (0, 0), (1, 0)][rng.integers(3)])
        location = np.repeat(points, 3, axis=0) + rng.normal(0, 2, (3 * len(points), 2))
        timestamp = np.arange(len(location), dtype=np.float64)[:, None] * 100
        table[observer, 0] = (location, timestamp, fixations)
    file = io.BytesIO()
    resolution = np.array([[HEIGHT, WIDTH]], np.uint16)
    content = {"image": name, "resolution": resolution, "gaze": table}
    scipy.io.savemat(file, content, do_compression=True)  # type: ignore[arg-type]
    return MAT_HEADER + file.getvalue()[len(MAT_HEADER) :]


def draw_map(gaze: list[Floats]) -> NDArray[np.uint8]:
    """Blur the binary fixation map; return (H, W) uint8 from 0 to 255."""
    x, y = np.concatenate(gaze).astype(np.int64).T - 1
    fixated = np.zeros((HEIGHT, WIDTH))
    fixated[y, x] = 1
    density = gaussian_filter(fixated, SIGMA, mode="constant", truncate=TRUNCATE)
    density -= density.min()
    pixels: NDArray[np.uint8] = (density / density.max() * 255).round().astype(np.uint8)
    return pixels


def _draw_background(rng: np.random.Generator) -> Floats:
    """Draw a gradient of two colours with smooth noise of three scales, (H, W, 3) in about 0..1."""
    first, second = rng.uniform(0.15, 0.85, (2, 3)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    ramp = (np.cos(angle) * (x / WIDTH - 0.5) + np.sin(angle) * (y / HEIGHT - 0.5) + 0.75) / 1.5
    noise = _noise(rng, 3, 0.12) + _noise(rng, 12, 0.06) + _noise(rng, 80, 0.03)
    background: Floats = first + (second - first) * ramp[..., None] + noise[..., None]
    return background


def _noise(rng: np.random.Generator, cells: int, strength: float) -> Floats:
    """Draw smooth noise (H, W): about `cells` bumps a side, standard deviation `strength`."""
    coarse = rng.normal(0, strength, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def _random_object(
    others: list[SyntheticObject], rng: np.random.Generator
) -> SyntheticObject | None:
    """Return an object at a distance from the others, or None if there is no space."""
    for _ in range(20):
        radius = rng.uniform(24, 90)
        thing = SyntheticObject(
            x=rng.uniform(radius, WIDTH - radius),
            y=rng.uniform(radius, HEIGHT - radius),
            radius_x=radius,
            radius_y=radius * rng.uniform(0.5, 1),
            angle=rng.uniform(0, np.pi),
            contrast=rng.uniform(0.2, 1),
        )
        if all(
            np.hypot(thing.x - other.x, thing.y - other.y) > 1.1 * (radius + other.radius_x)
            for other in others
        ):
            return thing
    return None


def _encode(pixels: NDArray[np.uint8], kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return  # Keep its time, so that shards built from it stay valid.
    with replace_file(path) as temporary:
        temporary.write_bytes(content)
