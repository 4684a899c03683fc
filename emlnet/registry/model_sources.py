"""Load a model from its source: a folder, an archive, an address, the registry, or `builtin`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from glob import has_magic
from pathlib import Path

import torch

from emlnet.inference import package
from emlnet.inference.package import BUILTIN, BUILTIN_FOLDER, FILES, MODEL, Package
from emlnet.inference.predictor import Picture, Prediction
from emlnet.registry.download import ARCHIVES, NoModelError, fetch
from emlnet.registry.mlflow_registry import HTTP, MODEL_URI, NAME, find_tracking_uri, pull


def predict(image: Picture, flip: bool = False) -> Prediction:
    """Predict where people look in a picture with the built-in model; see `Package.predict`."""
    return _builtin().predict(image, flip)


@cache
def _builtin() -> Package:
    return load()


def load(
    source: Path | str = BUILTIN,
    device: torch.device | str = "cpu",
    half: bool = False,
    tracking_uri: str | None = None,
) -> Package:
    """Load a model, in eval mode; by default the one that comes with emlnet.

    source: as in `resolve`.  device: where it computes.  half: backbones in 16 bits.
    tracking_uri: store of registered models, see `find_tracking_uri`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        uri = find_tracking_uri(tracking_uri)
        return package.load(resolve(str(source), uri, Path(scratch) / "model"), device, half)


def is_model(text: str) -> bool:
    """Whether a text has the form of a model's source, see `resolve`; a folder must hold one."""
    if text == BUILTIN or text.startswith((*HTTP, "models:/", "runs:/")):
        return True
    return (Path(text) / MODEL).is_file() or text.partition("#")[0].endswith(ARCHIVES)


def split_source(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the model's source, which is the first word or `builtin`, and the other words.

    Raises ValueError if the first word names neither a model nor a file.
    """
    if is_model(words[0]):
        return words[0], words[1:]
    if not Path(words[0]).exists() and not has_magic(words[0]):
        raise ValueError(f"no model and no picture at {words[0]!r}")
    return BUILTIN, words


def resolve(source: str, tracking_uri: str, into: Path) -> Path:
    """Return the folder of a packaged model: `source` itself, or `into` after pulling it there.

    source: a folder, an archive or the http(s) address of either (see emlnet.registry.download),
    `models:/emlnet@alias`, `models:/emlnet/version`, `runs:/run_id`, or `builtin`.
    """
    if source == BUILTIN:
        if missing := [name for name in FILES if not (BUILTIN_FOLDER / name).is_file()]:
            raise ValueError(
                f"the built-in model lacks {BUILTIN_FOLDER / missing[0]}; install the wheel again, "
                "or name a model"
            )
        return BUILTIN_FOLDER
    if (Path(source) / MODEL).is_file():
        return Path(source)
    found = MODEL_URI.fullmatch(source)
    if found:
        return pull(into, tracking_uri, **found.groupdict())
    try:
        return fetch(source, into)
    except NoModelError as error:
        forms = f"models:/{NAME}@ALIAS, models:/{NAME}/VERSION, runs:/RUN_ID"
        raise NoModelError(f"{error}, or {forms}") from None
