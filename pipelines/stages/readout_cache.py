"""Cached readouts of frozen encoders: computed once, read by position, shared by all decoders.

One folder per encoder, named by a digest of everything that its readouts depend on.  In it, for
each split, files of `PART` samples with a tensor per tapped layer, float16 (samples, 2, h, w), the
second of the two for the mirrored image; and `<split>.json`, written when the split is complete.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from emlnet.atomic_files import replace_file
from emlnet.data.batches import prepare_image
from emlnet.data.samples import collate
from emlnet.models.encoder import Encoder
from emlnet.models.precision import to_channels_last
from pipelines.config.identity import digest, slug
from pipelines.ray_cluster import tasks
from pipelines.tracking.run_folder import write_json
from shards.read.loader import check_sizes
from shards.read.reader import SplitReader, open_split

PART = 50
"""Samples of a file: what is lost when a worker dies."""


def key(encoder: Encoder, data_digest: str, weights_digest: str) -> str:
    """Return the name of the folder that holds an encoder's readouts on a data set."""
    name = slug(encoder.config.backbone, keep="_-.")
    return f"{name}-{digest(config=encoder.config, data=data_digest, weights=weights_digest)[:16]}"


def build(
    folder: Path,
    data: Sequence[Path | str],
    splits: Sequence[str],
    encoder: Encoder,
    use_gpu: bool | None = None,
    name: str = "",
) -> Path:
    """Compute an encoder's readouts of whole splits; files that are there are kept.

    folder: named by `key`.  data: folders of shards.  name: of the encoder in progress lines.
    Raises ValueError when the folder holds readouts of another key, or images of several sizes
    would need readouts of several sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = name or encoder.config.backbone
    incomplete = [split for split in splits if not _num_samples(folder, split)]
    if not incomplete:
        print(f"readouts of {name}: already in {folder}", flush=True)
    for split in incomplete:
        reader = open_split(data, split)
        check_canvas(reader, encoder)
        parts = tasks.split(len(reader), PART)
        missing = [part for part in parts if not _part_file(folder, split, part[0]).is_file()]
        title = f"readouts of {name}, {split}"
        if missing:
            tasks.spread(
                _compute, missing, encoder, reader, split, folder, title=title, use_gpu=use_gpu
            )
        write_json(_done_file(folder, split), {"key": folder.name, "num_samples": len(reader)})
    return folder


def check_canvas(reader: SplitReader, encoder: Encoder) -> None:
    """Raise ValueError when an encoder sees images of a split at several sizes."""
    if encoder.config.letterbox or encoder.kind == "eml":
        return
    try:
        check_sizes(reader)
    except ValueError as error:
        raise ValueError(
            f"{error}; the encoder {encoder.config.backbone} was trained on pictures of one size: "
            "train it on these, and it letterboxes"
        ) from None


@torch.inference_mode()
def _compute(
    part: list[int],
    device: torch.device,
    encoder: Encoder,
    reader: SplitReader,
    split: str,
    folder: Path,
) -> None:
    """Compute and write the readouts of one part."""
    encoder = to_channels_last(encoder, device).eval()
    rows: list[list[Tensor]] = []
    for position in part:
        sample = reader.decoded(position)
        batch = collate([sample, sample], np.ones(2, np.float32), np.array([False, True]))
        readouts = encoder.readouts(prepare_image(batch, device))
        rows.append([readout[:, 0].half().cpu() for readout in readouts])
    taps = {str(tap): torch.stack(maps) for tap, maps in enumerate(zip(*rows, strict=True))}
    with replace_file(_part_file(folder, split, part[0])) as temporary:
        save_file(taps, temporary)


def _part_file(folder: Path, split: str, first: int) -> Path:
    return folder / f"{split}-{first:06d}.safetensors"


def _done_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.json"


def _num_samples(folder: Path, split: str) -> int:
    """The samples of a complete split, 0 while it is not complete.

    Raises ValueError when its readouts are of another key than the folder's name.
    """
    path = _done_file(folder, split)
    if not path.is_file():
        return 0
    known = json.loads(path.read_text())
    if known["key"] != folder.name:
        raise ValueError(
            f"{folder} holds the readouts {known['key']}, of another encoder, data set or size; "
            "delete the folder, and they are computed"
        )
    return int(known["num_samples"])


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Readouts of one encoder on one split, mapped from disk.

    parts: per file, of each tapped layer (samples, 2, h, w) float16.
    """

    parts: tuple[tuple[Tensor, ...], ...]

    @classmethod
    def open(cls, folder: Path, split: str) -> Cache:
        """Open the readouts of a split; ValueError when it is incomplete or of another key."""
        num_samples = _num_samples(folder, split)
        if not num_samples:
            raise ValueError(
                f"{folder} holds no complete readouts of split {split!r}; "
                "`python -m pipelines readouts` computes them"
            )
        parts = []
        for first in range(0, num_samples, PART):
            path = _part_file(folder, split, first)
            try:
                taps = load_file(path)
            except (OSError, SafetensorError) as error:
                raise ValueError(
                    f"{path} is missing or cut short ({error}); delete {folder}, and readouts are "
                    "computed"
                ) from error
            parts.append(tuple(taps[str(tap)] for tap in range(len(taps))))
        return cls(parts=tuple(parts))

    def read(self, positions: Sequence[int], flips: Sequence[bool]) -> list[Tensor]:
        """For each tapped layer (B, 1, h, w) float16 of these samples, mirrored or not."""
        chosen = [
            [tap[position % PART, int(flip)] for tap in self.parts[position // PART]]
            for position, flip in zip(positions, flips, strict=True)
        ]
        return [torch.stack(taps)[:, None] for taps in zip(*chosen, strict=True)]
