"""Frozen encoders that a decoder joins, and the cache of their readouts.

Readouts are computed once and shared by all decoders.  Each encoder has a folder, named by a digest
of everything that its readouts depend on.  A file holds `SAMPLES_PER_FILE` samples of a split: for
each tapped layer one tensor (samples, 2, h, w), float16.  Index 1 of the second axis is the
mirrored image.

With folds, each training image is read by the encoder that has not seen it.  So a decoder learns
from readouts like those of new images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from emlnet.atomic_files import replace_file
from emlnet.data.batches import prepare_image
from emlnet.data.samples import collate
from emlnet.inference import package
from emlnet.models.eml_net import encoder_names
from emlnet.models.encoder import Encoder
from emlnet.models.precision import to_channels_last
from emlnet.registry import model_sources
from pipelines.config.flags import RUN
from pipelines.config.identity import digest, slug
from pipelines.ray_cluster import tasks
from shards.files.manifest import Manifest
from shards.read.folds import fold_of
from shards.read.loader import check_sizes
from shards.read.reader import ShardReader

SAMPLES_PER_FILE = 50
"""Samples per file; a worker that dies loses at most one file."""


@dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """An encoder to join.

    cache: folder of its readouts, which may not be computed yet.  weights: SHA-256 of its weights
    as a safetensors file.  licence: the weights' licence, from the package.
    folds: encoders that each left out one fold of the training images, and read that fold; empty if
    `encoder` reads all images.
    """

    encoder: Encoder
    cache: Path
    weights: str
    licence: str
    folds: tuple[Encoder, ...] = ()

    def cross_fitted(self, folds: Sequence[FrozenEncoder]) -> FrozenEncoder:
        """Return the encoder with its folds' encoders, which read the training images.

        folds: in order, each the encoder that left out that fold.
        """
        if not folds:
            return self
        suffix = digest(folds=[fold.weights for fold in folds])[:16]
        return replace(
            self,
            cache=self.cache.with_name(f"{self.cache.name}-{suffix}"),
            folds=tuple(fold.encoder for fold in folds),
        )


def open_encoders(
    packages: Sequence[Path], manifest: Manifest, caches: Path
) -> list[FrozenEncoder]:
    """Load all encoders of the packages; a decoder's package holds several.

    caches: the parent folder of all caches.
    """
    encoders = []
    for packaged in map(package.load, packages):
        for encoder in packaged.encoders:
            # Equals the digest of the weights file in an encoder's package.
            tensors = {k: v.contiguous() for k, v in encoder.state_dict().items()}
            weights = hashlib.sha256(save(tensors)).hexdigest()
            frozen = FrozenEncoder(
                encoder=encoder,
                cache=caches / cache_name(encoder, manifest.digest, weights),
                weights=weights,
                licence=packaged.licence,
            )
            encoders.append(frozen)
    return encoders


def find_packages(encoders: Sequence[str], tracking_uri: str, folder: Path) -> list[Path]:
    """Return the package folder of each encoder, given as MLflow run, model URI or folder.

    folder: remote packages are downloaded into it.
    """
    uris = [f"runs:/{name}" if RUN.fullmatch(name) else name for name in encoders]
    return [
        model_sources.resolve(uri, tracking_uri, folder / "encoders" / str(number))
        for number, uri in enumerate(uris)
    ]


def compute_readouts(
    data: Sequence[Path | str],
    encoders: Sequence[FrozenEncoder],
    use_gpu: bool | None,
    splits: Sequence[str] = ("train", "val"),
) -> None:
    """Compute the encoders' readouts that are not cached yet."""
    names = encoder_names([frozen.encoder.config.backbone for frozen in encoders])
    for name, frozen in zip(names, encoders, strict=True):
        build_cache(frozen.cache, data, splits, frozen.encoder, use_gpu, name, frozen.folds)


def cache_folder(given: Path | None, run_folder: Path) -> Path:
    """Return the parent folder of all caches; default: `readouts` beside the run's folder."""
    return given.expanduser().absolute() if given else run_folder.parent / "readouts"


def cache_name(encoder: Encoder, data_digest: str, weights_digest: str) -> str:
    """Return the name of the folder that holds an encoder's readouts on a data set."""
    name = slug(encoder.config.backbone, keep="_-.")
    return f"{name}-{digest(config=encoder.config, data=data_digest, weights=weights_digest)[:16]}"


def build_cache(
    folder: Path,
    data: Sequence[Path | str],
    splits: Sequence[str],
    encoder: Encoder,
    use_gpu: bool | None = None,
    name: str = "",
    folds: Sequence[Encoder] = (),
) -> Path:
    """Compute an encoder's readouts of whole splits; skip files that exist.

    folder: named by `cache_name`.  data: folders of shards.  name: shown in progress lines.
    folds: as in `FrozenEncoder`.
    Raises ValueError if the readouts would have several sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = name or encoder.config.backbone
    for split in splits:
        reader = ShardReader(data, split)
        parts = tasks.split(len(reader), SAMPLES_PER_FILE)
        missing = [part for part in parts if not part_file(folder, split, part[0]).is_file()]
        if not missing:
            print(f"readouts of {name}, {split}: already in {folder}", flush=True)
            continue
        check_canvas(reader, encoder)
        encoders = list(folds) if folds and split == "train" else [encoder]
        title = f"readouts of {name}, {split}"
        tasks.map_parts(
            _compute, missing, encoders, reader, split, folder, title=title, use_gpu=use_gpu
        )
    return folder


def check_canvas(reader: ShardReader, encoder: Encoder) -> None:
    """Raise ValueError if an encoder would see a split's images at several sizes."""
    if encoder.config.letterbox or encoder.kind == "eml":
        return
    try:
        check_sizes(reader)
    except ValueError as error:
        raise ValueError(
            f"{error}; the encoder {encoder.config.backbone} was trained on pictures of one size: "
            "train it again on this data, so that it letterboxes"
        ) from None


@torch.inference_mode()
def _compute(
    part: list[int],
    device: torch.device,
    encoders: list[Encoder],
    reader: ShardReader,
    split: str,
    folder: Path,
) -> None:
    """Compute and write the readouts of one part; each image is read by its fold's encoder."""
    encoders = [to_channels_last(encoder, device).eval() for encoder in encoders]
    rows: list[list[Tensor]] = []
    for position in part:
        sample = reader.decoded(position)
        batch = collate([sample, sample], np.ones(2, np.float32), np.array([False, True]))
        encoder = encoders[fold_of(sample.key, len(encoders))]
        readouts = encoder.readouts(prepare_image(batch, device))
        rows.append([readout[:, 0].half().cpu() for readout in readouts])
    by_tap = {str(tap): torch.stack(maps) for tap, maps in enumerate(zip(*rows, strict=True))}
    with replace_file(part_file(folder, split, part[0])) as temporary:
        save_file(by_tap, temporary)


def part_file(folder: Path, split: str, first: int) -> Path:
    """Return the path of the file that begins with the sample at position `first`."""
    return folder / f"{split}-{first:06d}.safetensors"


class Cache:
    """Readouts of one encoder on one split, in memory.

    Raises ValueError if a file of the split is missing or truncated.
    """

    def __init__(self, folder: Path, split: str, num_samples: int) -> None:
        self.parts: list[list[Tensor]] = []
        """Per file and tapped layer: (samples, 2, h, w) float16."""
        for first in range(0, num_samples, SAMPLES_PER_FILE):
            path = part_file(folder, split, first)
            try:
                readouts = load_file(path)
            except (OSError, SafetensorError) as error:
                raise ValueError(
                    f"{path} is missing or truncated ({error}); delete it, and "
                    "`python -m pipelines readouts` computes it again"
                ) from error
            self.parts.append([readouts[str(tap)] for tap in range(len(readouts))])

    def read(self, positions: Sequence[int], flips: Sequence[bool]) -> list[Tensor]:
        """Return the samples' readouts: (B, 1, h, w) float16 per tapped layer."""
        chosen = [
            [
                readout[position % SAMPLES_PER_FILE, int(flip)]
                for readout in self.parts[position // SAMPLES_PER_FILE]
            ]
            for position, flip in zip(positions, flips, strict=True)
        ]
        return [torch.stack(maps)[:, None] for maps in zip(*chosen, strict=True)]
