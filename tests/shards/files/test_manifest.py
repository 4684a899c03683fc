from __future__ import annotations

import hashlib
import io
import json
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


def rename(folder, **names):
    """Give files other names at once; names of tars without their ending."""
    contents = {new: (folder / f"{old}.tar").read_bytes() for old, new in names.items()}
    for new, content in contents.items():
        (folder / f"{new}.tar").write_bytes(content)


def test_a_packed_folder_verifies(packed):
    assert verify(packed, full=True).digest == verify(packed).digest == Manifest.load(packed).digest


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "manifest.json").unlink(), r"no finished data set \(manifest\.json is mis"),
        (lambda f: (f / "train-000001.tar").unlink(), r"train-000001\.tar is missing"),
        (lambda f: (f / "centre-train.npy").unlink(), r"centre-train\.npy is missing"),
        (lambda f: (f / "val-000000.tar").write_bytes(b"x"), r"val-000000\.tar has 1 bytes, the"),
        (lambda f: (f / "val-000001.tar").touch(), r"val-000001\.tar is not in the manifest"),
    ],
)
def test_a_file_that_is_missing_cut_or_surplus_is_named(packed, damage, reason):
    damage(packed)
    with pytest.raises(ValueError, match=reason):
        verify(packed)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1, "splits": []}', "\xff"])
def test_a_broken_manifest_is_refused(packed, text):
    (packed / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="is not a manifest of schema 2"):
        Manifest.load(packed)


def test_a_changed_byte_names_shard_and_sample(packed, change_byte):
    entry = verify(packed).splits["train"].samples[4]
    change_byte(packed / "train-000001.tar", entry.offset + entry.length // 2)
    with pytest.raises(ValueError, match=r"train-000001\.tar has changed: .* train/t4 differs"):
        verify(packed, full=True)
    verify(packed)


@pytest.mark.parametrize(
    ("file", "position", "reason"),
    [
        ("val-000000.tar", -1, r"val-000000\.tar has changed: its checksum differs"),
        ("centre-train.npy", 200, r"centre-train\.npy has changed"),
    ],
)
def test_a_changed_byte_outside_the_samples_is_found(packed, change_byte, file, position, reason):
    change_byte(packed / file, position)
    with pytest.raises(ValueError, match=reason):
        verify(packed, full=True)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda f: rename(f, **{"train-000000": "train-000001", "train-000001": "train-000000"}),
            r"train-000000\.tar",
        ),
        (
            lambda f: edit(f, lambda c: c["splits"]["train"]["samples"][1].update(key="train/x")),
            r"sample train/x cannot be read .* holds 't1\.density\.png'",
        ),
        (
            lambda f: edit(f, lambda c: c["splits"]["train"]["samples"][1].update(num_fixations=9)),
            "train/t1 has 3 fixations, the manifest says 9",
        ),
    ],
)
def test_shards_that_are_not_the_manifests_are_found(packed, damage, reason):
    damage(packed)
    with pytest.raises(ValueError, match=reason):
        verify(packed, full=True)


def sample(position, **changes):
    return lambda split: split["samples"][position].update(changes)


def shard(**changes):
    return lambda split: split["shards"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda split: split["samples"].pop(), "counts of train's shards do not match"),
        (lambda split: split["samples"].append(split["samples"][0]), "names a sample of train twi"),
        (lambda split: split["shards"].pop(), "offset of train/t6"),
        (sample(2, offset=0), "offset of train/t2"),
        (sample(-1, shard=9), "offset of train/t6"),
        (sample(0, length=1 << 40), "offset of train/t"),
        (shard(num_bytes=9), "beyond its shard's end"),
        (sample(0, key="val/t0"), "is not in the split train"),
        (sample(0, height=90_000_000), "claims 40 x 90000000 pixels"),
        *(
            (shard(file=file), "shards.0.file: ")
            for file in ("../x.tar", "a\\x.tar", "/etc/passwd")
        ),
        *(
            (sample(0, key=key), "samples.0.key: ")
            for key in ("../t0", "train/../t0", "train/a\\b", "train/", "train/..", "train/a\0")
        ),
        (shard(num_bytes=-9), "shards.0.num_bytes: "),
        (sample(0, offset=-512), "samples.0.offset: "),
        (sample(0, length=0), "samples.0.length: "),
        (sample(0, length="9"), "samples.0.length: "),
    ],
)
def test_an_index_that_does_not_fit_is_refused(packed, change, reason):
    edit(packed, lambda content: change(content["splits"]["train"]))
    with pytest.raises(ValueError, match=rf"manifest\.json.*{reason}"):
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
            for entry in split["samples"]:
                for name in described:
                    del entry[name]

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
    with pytest.raises(ValueError, match=r"000000\.tar: sample train/t0 .*'\.\./\.\./t0\.jpg'"):
        verify(packed, full=True)
