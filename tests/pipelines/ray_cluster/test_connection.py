"""An address where no Ray cluster answers is one sentence, soon."""

import http.server
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.config.options import ClusterOptions
from pipelines.ray_cluster import connection

pytestmark = pytest.mark.ray


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a web server."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("server", ["silent", "web", None])
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_a_cluster_is_named_with_the_way_out(
    server: str | None,
    scheme: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = scheme + (request.getfixturevalue(server) if server else "127.0.0.1:9")
    monkeypatch.setattr(connection, "SECONDS_TO_ANSWER", 0.5)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        ValueError, match=r"no Ray cluster answers at .*--address or RAY_ADDRESS"
    ) as caught:
        connection.connect(ClusterOptions())
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://me:secret@head:8265", r"at http://head:8265 \(it is a job server's"),
        ("no-such-host.invalid:6379", r"at no-such-host.invalid:6379 \("),
        ("me:secret@head:6379", r"at head:6379 \(Invalid address format: head:6379\)"),
        ("ray://me:secret@head:10001?token=secret", r"at ray://head:10001 \("),
        ("somewhere", r"at somewhere \(Invalid address format"),
    ],
)
def test_what_is_no_address_of_a_head_is_refused_without_its_password(
    address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SECONDS_TO_ANSWER", 0.5)
    with pytest.raises(ValueError, match=f"no Ray cluster answers {words}") as caught:
        connection.connect(ClusterOptions(address=address))
    assert "secret" not in str(caught.value)


def test_warnings_of_this_project_are_shown_beside_ray(
    local_ray: None, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("pipelines.tracking").warning("an empty file")
    assert "an empty file" in caplog.text
    assert not logging.getLogger("ray").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("existing", [True, False])
def test_only_the_owner_reads_rays_token(
    existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / ".ray" / "auth_token"
    if existing:
        token.parent.mkdir()
        token.write_text("f" * 64)
        token.chmod(0o644)
    connection.protect_token(token)
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
