"""What is logged of a configuration, and what tells two of them apart."""

import pytest

from pipelines.__main__ import parse
from pipelines.config.identity import digest, flatten, slug
from pipelines.config.presets import find_preset


def test_a_tree_has_a_digest_and_flattens_to_dotted_names() -> None:
    first = find_preset("osie-cpu")
    assert digest(config=first) == digest(config=find_preset("osie-cpu"))
    assert digest(config=first) != digest(config=find_preset("smoke"))
    flat = flatten(first)
    assert flat["plan.epochs"] == first.plan.epochs
    assert "kl=" in flat["plan.loss_weights"]


@pytest.mark.parametrize(
    "flags",
    [
        "--data x --tracking-uri http://me:secret@127.0.0.1:5000",
        "--data https://me:secret@host/a https://host/b?token=secret",
        "--data x --storage s3://key:secret@bucket/a",
    ],
)
def test_secrets_in_addresses_are_not_logged(flags: str) -> None:
    flat = flatten(parse(["full", *flags.split()]))
    assert "secret" not in str(flat)
    assert len(flat["data"]) == len(flags.partition(" --")[0].split()) - 1


def test_a_slug_is_a_file_name() -> None:
    assert slug("s3://a b/c:d.tar") == "s3---a-b-c-d.tar"
    assert slug("x" * 100) == "x" * 60
    assert slug("v1.2", keep="-_") == "v1-2"
