"""Tiny models and photographs, and the weights that the authors' answers were computed with."""

from __future__ import annotations

import math
import re
import shutil
import socket
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emlnet.data.batches import prepare_image, prepare_targets
from emlnet.data.samples import Decoded, collate
from emlnet.inference import package
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.registry import mlflow_registry

GOLDEN = Path(__file__).parent.parent / "data" / "golden.npz"
SIZE = (32, 48)

# What the authors call our keys: prefixes by pattern, encoder and decoder.
AUTHORS_ENCODER = {
    r"backbone\.": "",
    r"readout\.(\d+)\.": r"output\1.",
    r"head\.combine\.": "combined.",
}
AUTHORS_DECODER = {
    r"refine\.0\.(\d+)\.": r"img_model.\1.",
    r"refine\.1\.(\d+)\.": r"pla_model.\1.",
    r"combine\.": "combined.",
}


def authors_key(key: str, table: dict[str, str]) -> str:
    for pattern, prefix in table.items():
        if re.match(pattern, key):
            return re.sub(f"^{pattern}", prefix, key)
    raise AssertionError(f"no name for {key}")


def draw(key: str, shape: torch.Size, seed: int) -> Tensor:
    """The weight of an authors' key, by the rule that the golden answers were computed with."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    random = np.random.RandomState((zlib.crc32(key.encode()) ^ seed) & 0x7FFFFFFF)
    if key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
        values = random.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
        values = random.standard_normal(shape) * math.sqrt(0.7 / math.prod(shape[1:]))
    else:
        values = random.standard_normal(shape) * 0.1
    return torch.from_numpy(np.asarray(values, np.float32))


def draw_weights(module: nn.Module, table: dict[str, str], seed: int) -> None:
    module.load_state_dict(
        {k: draw(authors_key(k, table), v.shape, seed) for k, v in module.state_dict().items()}
    )


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """Inputs and answers of the authors' code."""
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="session")
def authors_net() -> EMLNet:
    """Two ResNet-50 and the paper's decoder with the weights of the golden answers."""
    config = EncoderConfig(backbone="resnet50", readout="eml", size=(96, 128), weights="none")
    net = EMLNet([Encoder(config), Encoder(config)], DecoderConfig(readout="eml")).eval()
    for seed, encoder in enumerate(net.encoders, 1):
        draw_weights(encoder, AUTHORS_ENCODER, seed)
    draw_weights(net.decoder, AUTHORS_DECODER, 3)
    return net


def tiny_encoder(readout: str = "density", seed: int = 0, **config: object) -> Encoder:
    """An encoder of a few hundred weights whose BatchNorm statistics are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        options = {
            "backbone": "tiny",
            "weights": "none",
            "size": SIZE,
            "readout_width": 4,
            **config,
        }
        encoder = Encoder(EncoderConfig(readout=readout, **options))
        encoder.train()
        with torch.no_grad():
            encoder(torch.rand(4, 3, *SIZE))
        return encoder.eval()


def tiny_net(kinds: tuple[str, ...], readout: str = "density", seed: int = 0) -> EMLNet:
    """An EML-NET of tiny encoders of those kinds."""
    encoders = [tiny_encoder(kind, seed + 10 * (k + 1)) for k, kind in enumerate(kinds)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EMLNet(encoders, DecoderConfig(readout=readout, width=4)).eval()


def photographs(num: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[Decoded]:
    """Noise with one bright spot each, which is where people look."""
    random = np.random.default_rng(seed)
    samples = []
    y, x = np.mgrid[: size[0], : size[1]]
    for number in range(num):
        centre = np.array([random.integers(6, size[1] - 6), random.integers(6, size[0] - 6)])
        spot = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 3.0**2))
        image = random.integers(0, 60, (*size, 3)) + 190 * spot[..., None]
        points = centre + random.integers(-3, 4, (3 + number % 4, 2))
        samples.append(
            Decoded(
                key=f"train/{number}",
                image=image.astype(np.uint8),
                points=points.astype(np.int32),
                observers=np.arange(len(points), dtype=np.int32),
                density=(255 * spot).round().astype(np.uint8),
            )
        )
    return samples


def step(samples: list[Decoded], weight: list[float] | None = None, flip: list[bool] | None = None):
    """What a model is called with and its targets: one step of an epoch."""
    batch = collate(
        samples,
        np.array(weight if weight is not None else [1.0] * len(samples), np.float32),
        np.array(flip if flip is not None else [False] * len(samples)),
    )
    return (prepare_image(batch),), prepare_targets(batch)


@pytest.fixture
def make_encoder() -> Callable[..., Encoder]:
    """Makes a tiny encoder."""
    return tiny_encoder


@pytest.fixture
def make_net() -> Callable[..., EMLNet]:
    """Makes a tiny EML-NET."""
    return tiny_net


@pytest.fixture
def make_photographs() -> Callable[..., list[Decoded]]:
    """Makes decoded samples."""
    return photographs


@pytest.fixture
def make_step() -> Callable[..., object]:
    """Makes a step of an epoch of samples."""
    return step


@pytest.fixture
def steps() -> list[object]:
    """An epoch of three steps of two photographs."""
    samples = photographs(6)
    return [step(samples[start : start + 2]) for start in (0, 2, 4)]


@pytest.fixture
def image() -> Tensor:
    """Two pictures of noise (2, 3, H, W) in 0..1."""
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def change_byte() -> Callable[[Path, int], None]:
    """Flips the bits of one byte of a file."""

    def change(path: Path, position: int) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 0xFF
        path.write_bytes(content)

    return change


@dataclass(frozen=True, kw_only=True)
class Store:
    """An MLflow store with two registered models: 1 is champion, 2 is challenger."""

    path: Path
    models: dict[int, Path]
    """Packaged models by version."""
    runs: dict[int, str]
    """Runs by version."""
    damaged: str
    """A run whose model's weights were changed after they were saved."""
    empty: str
    """A run without a model."""

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path}"


def register_model(uri: str, folder: Path, alias: str) -> str:
    """Logs a packaged model in a run and as MLflow's model, which it registers; returns the run."""
    client = mlflow_registry.connect(uri)
    found = client.get_experiment_by_name("test")
    experiment = found.experiment_id if found else client.create_experiment("test")
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(folder), mlflow_registry.PACKAGE)
    model = client.create_logged_model(experiment, name="model", source_run_id=run)
    with tempfile.TemporaryDirectory() as files:
        shutil.copytree(folder, Path(files) / "artifacts" / mlflow_registry.PACKAGE)
        client.log_model_artifacts(model.model_id, files)
    client.finalize_logged_model(model.model_id, "READY")
    if not client.search_registered_models(f"name = '{mlflow_registry.NAME}'"):
        client.create_registered_model(mlflow_registry.NAME)
    version = client.create_model_version(
        mlflow_registry.NAME, model.artifact_location, run_id=run, model_id=model.model_id
    )
    client.set_registered_model_alias(mlflow_registry.NAME, alias, version.version)
    return str(run)


@pytest.fixture
def register() -> Callable[[str, Path, str], str]:
    """Registers a packaged model in a store, under an alias; returns its run."""
    return register_model


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that tests read but do not change."""
    folder = tmp_path_factory.mktemp("store")
    path = folder / "mlflow.db"
    path.touch()
    client = mlflow_registry.connect(f"sqlite:///{path}")
    experiment = client.create_experiment("test", (folder / "mlartifacts").as_uri())
    models = {
        number: package.save(
            folder / f"model{number}", tiny_encoder(seed=number), {"name": f"model {number}"}
        )
        for number in (1, 2)
    }
    runs = {
        number: register_model(f"sqlite:///{path}", models[number], alias)
        for number, alias in ((1, mlflow_registry.CHAMPION), (2, "challenger"))
    }
    broken = folder / "broken"
    shutil.copytree(models[1], broken)
    content = bytearray((broken / package.WEIGHTS).read_bytes())
    content[-1] ^= 0xFF
    (broken / package.WEIGHTS).write_bytes(content)
    damaged, empty = (client.create_run(experiment).info.run_id for _ in range(2))
    client.log_artifacts(damaged, str(broken), mlflow_registry.PACKAGE)
    return Store(path=path, models=models, runs=runs, damaged=damaged, empty=empty)


def noise(size=(37, 50), channels=3):
    return np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)


@pytest.fixture(params=["net", "eml net", "encoder", "eml encoder"])
def model(request, make_encoder, make_net):
    kind = "eml" if request.param.startswith("eml") else "density"
    if request.param.endswith("net"):
        return make_net(("density", "eml"), kind)
    return make_encoder(kind)
