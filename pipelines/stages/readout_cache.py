"""Frozen encoders -> cached readouts: computed once, shared by all decoders, read by position.

One folder per encoder, named by the digest of all that the readouts depend on; in it one file per
part, split, and tap: float16, (samples, 2, h, w), the second of the two for the mirrored picture.
"""

from __future__ import annotations

import bisect
import fcntl
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet.data.batches import prepare_image
from emlnet.data.samples import collate
from emlnet.models.encoder import Encoder
from emlnet.models.precision import lay_out
from pipelines.config.identity import digest
from pipelines.ray_cluster import tasks
from pipelines.tracking.run_folder import LOCK, write_json
from shards.read.loader import check_sizes
from shards.read.reader import SplitReader, open_split

PART = 50
"""Samples of a part: what is lost when a worker dies."""
DONE = "readouts.json"


def key(encoder: Encoder, data_digest: str, weights_digest: str) -> str:
    """What the readouts of an encoder on a data set depend on, as a name."""
    name = encoder.config.backbone.replace(":", "-").replace("/", "-")
    return f"{name}-{digest(config=encoder.config, data=data_digest, weights=weights_digest)[:16]}"


def build(
    folder: Path,
    data: Sequence[Path | str],
    splits: Sequence[str],
    encoder: Encoder,
    use_gpu: bool | None = None,
) -> Path:
    """Computes an encoder's readouts of whole splits, mirrored too; parts that are there are kept.

    folder: named by `key`; complete when it returns.  data: folders of shards.
    Raises ValueError when it holds readouts of another key, or pictures of several sizes would
    need several sizes of readouts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = _check_key(folder)
    if set(splits) <= set(known.get("splits", ())):
        print(f"readouts of {encoder.config.backbone}: already in {folder}", flush=True)
        return folder
    about = {"key": folder.name, "encoder": asdict(encoder.config)}
    _mark(folder, about, [])
    for name in splits:
        if name in known.get("splits", ()):
            continue
        reader = open_split(data, name)
        check_canvas(reader, encoder)
        parts = [
            part
            for part in tasks.split(len(reader), PART)
            if not _files(folder, name, part[0], 0).is_file()
        ]
        if parts:
            title = f"readouts of {encoder.config.backbone}, {name}"
            tasks.spread(
                _compute, parts, encoder, reader, name, folder, title=title, use_gpu=use_gpu
            )
        _mark(folder, about, [name])
    return folder


def _mark(folder: Path, about: dict[str, Any], splits: list[str]) -> None:
    """Says that splits are complete, beside those that another command completed meanwhile."""
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = _check_key(folder).get("splits", [])
        write_json(folder / DONE, {**about, "splits": [*done, *(set(splits) - set(done))]})


def check_canvas(reader: SplitReader, encoder: Encoder) -> None:
    """Raises ValueError when an encoder sees pictures of a split at several sizes."""
    if encoder.config.letterbox or encoder.kind == "eml":
        return
    try:
        check_sizes(reader)
    except ValueError as error:
        raise ValueError(
            f"{error}; the encoder {encoder.config.backbone} was trained on pictures of one size: "
            "train it on these, and it letterboxes"
        ) from None


def _check_key(folder: Path) -> dict[str, Any]:
    """What a folder of readouts says of itself, empty when it is new.

    Raises ValueError when its readouts are of another encoder, data set or size than its name says.
    """
    if not (folder / DONE).is_file():
        if any(folder.glob("*-tap*.npy")):
            raise ValueError(f"{folder} holds readouts but no {DONE} that says of what; delete it")
        return {}
    known: dict[str, Any] = json.loads((folder / DONE).read_text())
    if known["key"] != folder.name:
        raise ValueError(
            f"{folder} holds the readouts {known['key']}, of another encoder, data set or size; "
            "delete the folder, and they are computed"
        )
    return known


@torch.inference_mode()
def _compute(
    part: list[int],
    device: torch.device,
    encoder: Encoder,
    reader: SplitReader,
    split: str,
    folder: Path,
) -> None:
    """Readouts of one part; the file of tap 0, which marks the part as done, is written last."""
    encoder = lay_out(encoder, device).eval()
    rows: list[list[NDArray[np.float16]]] = []
    for position in part:
        sample = reader.decoded(position)
        batch = collate([sample, sample], np.ones(2, np.float32), np.array([False, True]))
        found = encoder.readouts(prepare_image(batch, device))
        rows.append([readout[:, 0].half().cpu().numpy() for readout in found])
    for tap in reversed(range(len(rows[0]))):
        path = _files(folder, split, part[0], tap)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, np.stack([row[tap] for row in rows]), allow_pickle=False)
        temporary.replace(path)


def _files(folder: Path, split: str, first: int, tap: int) -> Path:
    return folder / f"{split}-{first:06d}-tap{tap}.npy"


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Readouts of one encoder on one split, mapped from disk.

    parts: per part, of each tap (samples, 2, h, w) float16.
    """

    starts: tuple[int, ...]
    parts: tuple[tuple[Tensor, ...], ...]

    @classmethod
    def open(cls, folder: Path, split: str) -> Cache:
        """Opens a complete cache.

        Raises ValueError when the split is not there or not complete, or of another key.
        """
        if split not in _check_key(folder).get("splits", ()):
            raise ValueError(
                f"{folder} holds no complete readouts of split {split!r}; "
                "`python -m pipelines readouts` computes them"
            )
        firsts = sorted(int(p.name.split("-")[-2]) for p in folder.glob(f"{split}-*-tap0.npy"))
        parts = []
        for first in firsts:
            num_taps = len(list(folder.glob(f"{split}-{first:06d}-tap*.npy")))
            paths = [_files(folder, split, first, tap) for tap in range(num_taps)]
            parts.append(tuple(map(_map, paths)))
        return cls(starts=tuple(firsts), parts=tuple(parts))

    def read(self, positions: Sequence[int], flips: Sequence[bool]) -> list[Tensor]:
        """For each tap (B, 1, h, w) float16 of the samples at these positions, mirrored or not."""
        chosen = []
        for position, flip in zip(positions, flips, strict=True):
            part = bisect.bisect_right(self.starts, position) - 1
            row = position - self.starts[part]
            chosen.append([tap[row, int(flip)] for tap in self.parts[part]])
        return [torch.stack(taps)[:, None] for taps in zip(*chosen, strict=True)]


def _map(path: Path) -> Tensor:
    """A .npy file of float16, mapped.  Unlike numpy's own maps it keeps no file open."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    if dtype != np.float16:
        raise ValueError(f"{path} holds {dtype}, not the float16 of readouts; delete its folder")
    num_bytes = start + 2 * math.prod(shape)
    if path.stat().st_size != num_bytes:
        raise ValueError(f"{path} is cut short; delete its folder, and readouts are computed")
    whole = torch.from_file(str(path), size=num_bytes, dtype=torch.uint8)
    return whole[start:].view(torch.float16).view(shape)
