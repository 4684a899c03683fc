"""What all tests share."""

import os
import secrets


def pytest_configure() -> None:
    """One token for every Ray that tests start: a process reads its own once, and keeps it."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
