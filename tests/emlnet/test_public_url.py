"""Addresses without their secrets."""

from pathlib import Path

import pytest

from emlnet.public_url import public_url


@pytest.mark.parametrize(
    ("given", "public"),
    [
        ("http://me:secret@host:5000", "http://host:5000"),
        ("http://me:sec@ret@host/a", "http://host/a"),
        ("https://host/a.tar?X-Amz-Signature=secret", "https://host/a.tar"),
        ("https://host/a.tar?token=secret#sha256=ab", "https://host/a.tar#sha256=ab"),
        ("postgresql+psycopg2://me:secret@host/db", "postgresql+psycopg2://host/db"),
        ("--data=s3://key:secret@bucket/a", "--data=s3://bucket/a"),
        ("two: s3://k:secret@a 'http://b?secret' end", "two: s3://a 'http://b' end"),
        (Path("https://me:secret@host/a?secret"), "https:/host/a"),
        *[(text, text) for text in ("models:/emlnet@champion", "a@b.org", "/mnt/a@b/c?", "what?")],
        *[(text, text) for text in ("sqlite:////mnt/mlflow.db", "s3://bucket/a@b", "full")],
    ],
)
def test_user_password_and_query_are_removed(given: object, public: str) -> None:
    assert public_url(given) == public
