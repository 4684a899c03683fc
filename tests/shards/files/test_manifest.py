from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import zlib

import pytest

from shards.files.manifest import Manifest
from shards.inspect.verify import verify


def edit(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_packed_folder_verifies(packed):
    assert verify(packed, full=True).digest == verify(packed).digest == Manifest.load(packed).digest


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no finished data set \(manifest\.json is missing\)"):
        verify(tmp_path)


def test_another_schema_is_refused(packed):
    edit(packed, lambda content: content.update(schema=0))
    with pytest.raises(ValueError, match="has schema 0; build the data set again"):
        Manifest.load(packed)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1, "splits": []}', "\xff"])
def test_a_broken_manifest_is_refused(packed, text):
    (packed / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="is not a manifest of schema 2"):
        Manifest.load(packed)


def test_a_missing_shard_is_named(packed):
    (packed / "train-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"train-000001\.tar is missing"):
        Manifest.load(packed)


def test_a_missing_centre_prior_is_named(packed):
    (packed / "centre-train.npy").unlink()
    with pytest.raises(ValueError, match=r"centre-train\.npy is missing"):
        Manifest.load(packed)


def test_a_cut_shard_is_named(packed):
    path = packed / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:-1024])
    with pytest.raises(ValueError, match=r"train-000001\.tar has \d+ bytes, the manifest says"):
        verify(packed)


def test_a_changed_byte_names_shard_and_sample(packed, change_byte):
    entry = verify(packed).splits["train"].samples[4]
    change_byte(packed / "train-000001.tar", entry.offset + entry.length // 2)
    with pytest.raises(
        ValueError, match=r"train-000001\.tar has changed: .* sample train/t4 differs"
    ):
        verify(packed, full=True)
    verify(packed)


def test_a_changed_byte_after_the_samples_is_found(packed, change_byte):
    change_byte(packed / "val-000000.tar", (packed / "val-000000.tar").stat().st_size - 1)
    with pytest.raises(ValueError, match=r"val-000000\.tar has changed: its checksum differs"):
        verify(packed, full=True)


def test_a_changed_centre_prior_is_found(packed, change_byte):
    change_byte(packed / "centre-train.npy", 200)
    with pytest.raises(ValueError, match=r"centre-train\.npy has changed"):
        verify(packed, full=True)


def test_a_surplus_shard_is_found(packed):
    shutil.copy(packed / "val-000000.tar", packed / "val-000001.tar")
    with pytest.raises(ValueError, match=r"val-000001\.tar is not in the manifest"):
        verify(packed)


def test_swapped_shards_are_found(packed):
    first, second, other = (packed / name for name in ("train-000000.tar", "train-000001.tar", "x"))
    first.rename(other)
    second.rename(first)
    other.rename(second)
    with pytest.raises(ValueError, match=r"train-000000\.tar"):
        verify(packed, full=True)


def test_an_index_that_names_another_sample_is_found(packed):
    edit(packed, lambda c: c["splits"]["train"]["samples"][1].update(key="train/other"))
    with pytest.raises(
        ValueError, match=r"sample train/other cannot be read .* holds 't1\.density\.png'"
    ):
        verify(packed, full=True)


def test_a_count_of_fixations_that_differs_is_found(packed):
    edit(packed, lambda c: c["splits"]["train"]["samples"][1].update(num_fixations=99))
    with pytest.raises(ValueError, match="train/t1 has 3 fixations, the manifest says 99"):
        verify(packed, full=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda split: split["samples"].pop(), "counts of train's shards do not match"),
        (
            lambda split: split["samples"].append(split["samples"][0]),
            "names a sample of train twice",
        ),
        (lambda split: split["samples"][2].update(offset=0), "place of train/t2"),
        (lambda split: split["samples"][-1].update(shard=9), "place of train/t6"),
        (lambda split: split["shards"].pop(), "place of train/t6"),
        (lambda split: split["shards"][0].update(file="../x.tar"), "not the name of a tar"),
        (lambda split: split["shards"][0].update(file="a\\x.tar"), "not the name of a tar"),
        (lambda split: split["shards"][0].update(file="/etc/passwd"), "not the name of a tar"),
        (lambda split: split["shards"][0].update(num_bytes=9), "beyond its shard's end"),
        (lambda split: split["shards"][0].update(num_bytes=-9), "a number is below 0"),
        (lambda split: split["samples"][0].update(key="../t0"), "'../t0' is not named"),
        (lambda split: split["samples"][0].update(key="train/../t0"), "is not named"),
        (lambda split: split["samples"][0].update(key="train/a\\b"), "is not named"),
        (lambda split: split["samples"][0].update(key="train/"), "is not named"),
        (lambda split: split["samples"][0].update(key="val/t0"), "is not of the split train"),
        (lambda split: split["samples"][0].update(offset=-512), "is below 0"),
        (lambda split: split["samples"][0].update(length=0), "is below 0"),
        (lambda split: split["samples"][0].update(length=1 << 40), "place of train/t"),
        (lambda split: split["samples"][0].update(length="9"), "not a manifest of schema"),
        (lambda split: split["samples"][0].update(height=1 << 40), "claims 40 x 1099511627776"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(packed, change, reason):
    edit(packed, lambda content: change(content["splits"]["train"]))
    with pytest.raises(ValueError, match=reason):
        verify(packed)


def test_data_built_under_schema_1_keeps_its_digest(packed):
    described = ("num_observers", "density_cc", "picture_hash")

    def downgrade(content):
        content["schema"] = 1
        del content["edition"]
        for name in ("format", "maps", "sigma"):
            del content["origin"][name]
        for split in content["splits"].values():
            del split["fixations"]
            split["samples"] = [
                {key: value for key, value in entry.items() if key not in described}
                for entry in split["samples"]
            ]

    digest = Manifest.load(packed).digest
    edit(packed, downgrade)
    content = json.loads((packed / "manifest.json").read_text())
    text = json.dumps([1, content["splits"]], sort_keys=True)
    assert Manifest.load(packed).digest == digest == hashlib.sha256(text.encode()).hexdigest()
    assert verify(packed, full=True).splits["train"].fixations is None


def test_a_member_with_a_path_outside_is_named_though_every_checksum_fits(packed):
    entry = Manifest.load(packed).splits["train"].samples[0]
    path = packed / "train-000000.tar"
    content = path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        member = tar.getmember("t0.jpg")
    member.name = "../../t0.jpg"
    header = member.tobuf(tarfile.USTAR_FORMAT)
    content = content[: member.offset] + header + content[member.offset + len(header) :]
    path.write_bytes(content)

    def fit(manifest):
        split = manifest["splits"]["train"]
        split["samples"][0]["crc32"] = zlib.crc32(content[: entry.length])
        split["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()

    edit(packed, fit)
    with pytest.raises(
        ValueError,
        match=r"train-000000\.tar: sample train/t0 .*it holds '\.\./\.\./t0\.jpg'",
    ):
        verify(packed, full=True)
