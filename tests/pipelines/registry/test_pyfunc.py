"""The registered model over HTTP: maps for pictures, 4xx for what is none, bounded memory."""

import base64
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

import emlnet
from emlnet.inference.package import save
from emlnet.models.encoder import Encoder, EncoderConfig
from pipelines.registry import publish
from pipelines.tracking.mlflow_runs import Tracker


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64)))
    return save(tmp_path_factory.mktemp("model") / "package", encoder, {"name": "tiny"})


@pytest.fixture
def model(package: Path) -> Any:
    serving = importlib.import_module("pipelines.registry.pyfunc")
    served = serving.SaliencyModel()
    served.load_context(SimpleNamespace(artifacts={"package": str(package)}))
    return served


def encode(height: int, width: int, seed: int = 0, kind: str = "PNG") -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(file, kind)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of some kilobytes that claims side x side pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + checksum

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    packed = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed)


def test_each_picture_is_answered_with_its_map(model: Any, package: Path) -> None:
    pictures = [encode(40, 60), encode(30, 20, 1, "JPEG")]
    answer = model.predict(None, pd.DataFrame({"image": pictures}), {"flip": True})
    loaded = emlnet.load(package)
    for data, text in zip(pictures, answer["saliency_png"], strict=True):
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        expected = loaded.predict(Image.open(io.BytesIO(data)), flip=True).picture()
        np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        ([b"no picture"], "picture 0 cannot be decoded"),
        ([encode(4, 4), encode(400, 400)[:900]], "picture 1 cannot be decoded"),
        ([bomb(14_200)], "picture 0 cannot be decoded"),
        ([bomb(8_000)], "it claims 8000 x 8000 pixels"),
        ([encode(1, 50_000)], "50000 x 1 pixels is longer than 20 to 1"),
        ([encode(9, 9, kind="TIFF")], "its format is not JPEG, PNG"),
        ([b"%!PS-Adobe-3.0 EPSF-3.0"], "its format is not JPEG, PNG"),
        (["a path"], "picture 0 is str, not an encoded picture"),
        ([encode(4, 4)] * 17, "send 1 to 16 pictures, not 17"),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(
    model: Any, pictures: list[Any], reason: str
) -> None:
    with pytest.raises(MlflowException, match=reason) as error:
        model.predict(None, pd.DataFrame({"image": pictures}))
    assert error.value.get_http_status_code() == 400


@pytest.fixture(scope="module")
def server(
    package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, psutil.Process]]:
    """`mlflow models serve` of a registered model, on loopback."""
    folder = tmp_path_factory.mktemp("serve")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracker = Tracker.open(uri, "serve")
    (folder / "run").mkdir()
    with tracker.run(folder / "run", "run", params={}, tags={}) as run_id:
        publish.register(package, "tiny", tracker, run_id)
    tracker.client.set_registered_model_alias("emlnet", "champion", "1")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/emlnet@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    # MLflow starts uvicorn by its name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    environment |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield url, psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


def post(url: str, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{url}/invocations", data, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def picture_request(data: bytes, **params: Any) -> dict[str, Any]:
    rows = {"columns": ["image"], "data": [[base64.b64encode(data).decode()]]}
    return {"dataframe_split": rows, "params": params}


@pytest.mark.slow
def test_a_picture_is_answered_over_http_and_a_bad_request_refused(
    server: tuple[str, psutil.Process], package: Path
) -> None:
    url, _ = server
    status, answer = post(url, picture_request(encode(40, 60), flip=True))
    assert status == 200
    drawn = Image.open(io.BytesIO(base64.b64decode(answer["predictions"][0]["saliency_png"])))
    expected = emlnet.load(package).predict(Image.open(io.BytesIO(encode(40, 60))), flip=True)
    assert np.abs(np.asarray(drawn).astype(int) - expected.picture()).max() <= 1
    for body, reason in (
        (picture_request(bomb(14_200)), "cannot be decoded"),
        ({"dataframe_split": {"columns": ["picture"], "data": [["aa"]]}}, "image"),
        ({"something": "else"}, ""),
        (b"{", ""),
    ):
        status, answer = post(url, body)
        assert 400 <= status < 500, (status, answer)
        assert reason in str(answer)


@pytest.mark.slow
def test_memory_is_bounded_under_mixed_requests_of_eight_clients(
    server: tuple[str, psutil.Process],
) -> None:
    url, process = server
    sizes = [(60, 1200), (480, 640), (1200, 1600), (3000, 4000)]
    requests = [picture_request(encode(*size, kind="JPEG")) for size in sizes]

    def memory() -> float:
        members = [process, *process.children(recursive=True)]
        return sum(member.memory_info().rss for member in members) / 2**20

    def send(number: int) -> tuple[int, float]:
        # One in eight is large; all kinds come at once.
        which = 3 if number % 8 == 0 else number % 3
        return post(url, requests[which])[0], memory()

    before = memory()
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(send, range(200)))
    assert [status for status, _ in answers] == [200] * 200
    peaks = [used for _, used in answers]
    print(f"memory in MiB: {before:.0f} before, {max(peaks):.0f} at most, {peaks[-1]:.0f} after")
    assert max(peaks) < before + 1500
    assert max(peaks[100:]) < max(peaks[:100]) * 1.15 + 50
