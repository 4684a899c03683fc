"""An S3-protocol server on loopback that can be told to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Server:
    """moto's S3 behind a gate.

    url: `http://127.0.0.1:PORT`.  gate: called with each request's WSGI environment and the
    application that answers it; a test replaces it to answer 500, to cut a body or to count.
    """

    def __init__(self) -> None:
        self.application: Application = DomainDispatcherApplication(create_backend_app)
        self.open()
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def open(self) -> None:
        """Lets every request through."""
        self.gate = lambda environ, respond: self.application(environ, respond)

    def fail(self, times: int, method: str = "", path: str = "") -> None:
        """Answers the next requests of that method, whose path holds `path`, with 500."""
        left = [times]

        def gate(environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
            if left[0] and method in environ["REQUEST_METHOD"] and path in environ["PATH_INFO"]:
                left[0] -= 1
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                respond("500 Internal Server Error", [("Content-Length", "0")])
                return [b""]
            return self.application(environ, respond)

        self.gate = gate

    def _answer(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        return self.gate(environ, respond)
