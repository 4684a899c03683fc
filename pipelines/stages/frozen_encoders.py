"""Frozen encoders that a decoder joins: their packages and their cached readouts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save

from emlnet.inference import package
from emlnet.models.eml_net import encoder_names
from emlnet.models.encoder import Encoder
from emlnet.registry import mlflow_registry
from pipelines.config.flags import RUN
from pipelines.stages import readout_cache
from shards.files.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """An encoder to join.

    cache: folder of its readouts, whether they are computed or not.  weights: SHA-256 of its
    weights as safetensors writes them.  licence: of the weights, as its package says.
    """

    encoder: Encoder
    cache: Path
    weights: str
    licence: str

    @property
    def source(self) -> str:
        """Its name in the parameters of a run."""
        return f"{self.encoder.config.backbone} {self.weights[:12]}"


def open_encoders(
    packages: Sequence[Path], manifest: Manifest, caches: Path
) -> list[FrozenEncoder]:
    """Return all encoders of some packages; a decoder's package holds several.

    caches: folder that holds the folders of readouts.
    """
    encoders = []
    for path in packages:
        packaged = package.load(path)
        for encoder in packaged.encoders:
            # For an encoder's package this is the digest of its weights file.
            tensors = {k: v.contiguous() for k, v in encoder.state_dict().items()}
            weights = hashlib.sha256(save(tensors)).hexdigest()
            cache = caches / readout_cache.key(encoder, manifest.digest, weights)
            encoders.append(
                FrozenEncoder(
                    encoder=encoder, cache=cache, weights=weights, licence=packaged.licence
                )
            )
    return encoders


def find_packages(encoders: Sequence[str], tracking_uri: str, folder: Path) -> list[Path]:
    """Return the folder of each packaged encoder, named by an MLflow run, a model URI or a folder.

    folder: where packages from elsewhere are pulled to.
    """
    return [
        mlflow_registry.resolve(
            f"runs:/{uri}" if RUN.fullmatch(uri) else uri,
            tracking_uri,
            folder / "encoders" / str(number),
        )
        for number, uri in enumerate(encoders)
    ]


def compute_readouts(
    data: Sequence[Path | str],
    encoders: Sequence[FrozenEncoder],
    use_gpu: bool | None,
    splits: Sequence[str] = ("train", "val"),
) -> None:
    """Compute the readouts of encoders that are not cached yet."""
    names = encoder_names([each.encoder.config.backbone for each in encoders])
    for name, each in zip(names, encoders, strict=True):
        readout_cache.build(each.cache, data, splits, each.encoder, use_gpu, name)


def cache_folder(given: Path | None, run_folder: Path) -> Path:
    """The folder that holds the folders of readouts: as given, else shared by neighbouring runs."""
    return given.expanduser().absolute() if given else run_folder.parent / "readouts"
