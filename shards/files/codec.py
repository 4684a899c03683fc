"""Sample <-> its bytes in a tar, sample -> pixels; the only file that knows members' extensions.

A sample is three members: `<stem>.jpg` (or .png), the photograph byte for byte;
`<stem>.fixations.npy`, int32 rows of x, y, observer; `<stem>.density.png`, the density map pixel
for pixel. A fourth, where the source tells times: `<stem>.timing.npy`, float32 rows of onset and
duration in ms.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from webdataset.tariterators import group_by_keys, tar_file_expander

from emlnet.data.images import open_picture
from emlnet.data.samples import Decoded, Place, Sample
from shards.files.pixels import decode_grey, decode_photograph, encode_grey

POINTS = "fixations.npy"
TIMING = "timing.npy"
DENSITY = "density.png"
IMAGES = ("jpg", "jpeg", "png")
BLOCK = 512
"""Bytes of a tar's header, and what its members fill up to."""
SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}


def split_name(name: str) -> tuple[str, str]:
    """A member's name as (stem, extension); ValueError for a path or a name that is not ours."""
    for extension in (POINTS, TIMING, DENSITY, *IMAGES):
        stem = name[: -len(extension) - 1]
        if stem and name == f"{stem}.{extension}" and not set(stem) & set("/\\\0"):
            return stem, extension
    raise ValueError(
        f"a shard holds no member named {name!r}: only <stem>.jpg|png|{POINTS}|{TIMING}|{DENSITY}"
    )


def pack(sample: Sample) -> bytes:
    """The sample's members as a piece of a tar, without an end; equal samples give equal bytes.

    Pieces put one after another, then 1,024 zero bytes, are a tar. Raises ValueError when the
    photograph is neither JPEG nor PNG, or the stem cannot name a member.
    """
    stem = sample.key.split("/", 1)[1]
    table = np.column_stack([sample.points, sample.observers]).astype(np.int32)
    members = {
        image_extension(sample.image, sample.key): sample.image,
        POINTS: _dump(table),
        DENSITY: _repack(sample.density, f"{sample.key}: the density map"),
    }
    if sample.timing is not None:
        members[TIMING] = _dump(sample.timing.astype(np.float32))
    for extension in members:
        if split_name(f"{stem}.{extension}") != (stem, extension):
            raise ValueError(f"{sample.key}: the name clashes with a member's extension; rename it")
    piece = io.BytesIO()
    # PAX holds long and non-ASCII names; times, users and modes are fixed so that bytes never vary.
    writer = wds.TarWriter(
        piece, user="", group="", mode=0o644, mtime=0, encoder=False, format="PAX_FORMAT"
    )
    writer.write({"__key__": stem, **members})
    length = writer.tarstream.offset
    writer.close()
    return piece.getvalue()[:length]


def _plain_record(piece: bytes) -> list[dict[str, Any]]:
    """The record of a piece whose members have plain names and one stem; none of any other piece.

    What webdataset finds, in a tenth of its time.
    """
    record: dict[str, Any] = {}
    at = 0
    while at < len(piece):
        header = piece[at : at + BLOCK]
        at += BLOCK
        size = header[124:135]
        if header[156:157] != b"0" or header[345:346] != b"\0" or not size.isdigit():
            return []
        stem, extension = split_name(header[:100].rstrip(b"\0").decode())
        content = piece[at : at + int(size, 8)]
        at += -(-int(size, 8) // BLOCK) * BLOCK
        if record.setdefault("__key__", stem) != stem or extension in record or at > len(piece):
            return []
        record[extension] = content
    return [record]


def _records(piece: bytes, key: str) -> list[dict[str, Any]]:
    source = [{"url": key, "stream": io.BytesIO(piece)}]
    return list(group_by_keys(tar_file_expander(source), keys=split_name))


def unpack(piece: bytes, key: str) -> Sample:
    """The sample `key` (`split/stem`) from what `pack` gave.

    Raises ValueError naming the sample when the bytes are cut, hold another sample, or hold more.
    """
    stem = key.split("/", 1)[1]
    try:
        records = _plain_record(piece) or _records(piece, key)
        if [record["__key__"] for record in records] != [stem]:
            raise ValueError(f"holds {[record['__key__'] for record in records]}")
        images = [extension for extension in IMAGES if extension in records[0]]
        if len(images) != 1 or POINTS not in records[0] or DENSITY not in records[0]:
            raise ValueError(f"holds only {sorted(k for k in records[0] if k[0] != '_')}")
        table = _load(records[0][POINTS], POINTS, np.dtype(np.int32), (-1, 3))
        timing = None
        if TIMING in records[0]:
            timing = _load(records[0][TIMING], TIMING, np.dtype(np.float32), (len(table), 2))
    except Exception as error:  # tarfile, numpy and webdataset raise many kinds for broken bytes
        reason = error.args[0] if error.args else type(error).__name__
        raise ValueError(f"sample {key} cannot be read from its shard: {reason}") from error
    return Sample(
        key=key,
        image=records[0][images[0]],
        points=np.ascontiguousarray(table[:, :2]),
        observers=np.ascontiguousarray(table[:, 2]),
        density=records[0][DENSITY],
        timing=timing,
    )


def decode(sample: Sample, place: Place | None = None) -> Decoded:
    """The sample's pictures as pixels: upright RGB whatever the photograph's mode, alpha on white.

    place: memory for them, which is used where that saves a copy; in one without room for a density
    map that map is not decoded, and is zeros.
    Raises ValueError naming the sample when a picture is broken or claims too many pixels, when
    photograph and density differ in size, or when a point lies outside.
    """
    image = decode_photograph(sample.image, f"{sample.key}: the photograph", place and place.image)
    density: NDArray[np.uint8] = np.broadcast_to(np.uint8(0), image.shape[:2])
    if place is None or place.density is not None:
        density = decode_grey(
            sample.density, f"{sample.key}: the density map", place and place.density
        )
    if image.shape[:2] != density.shape:
        raise ValueError(
            f"{sample.key}: the photograph is {image.shape[:2]}, its density map {density.shape}"
        )
    size = np.array(density.shape[::-1])
    if (sample.points < 0).any() or (sample.points >= size).any():
        raise ValueError(f"{sample.key}: a fixation lies outside the photograph, {density.shape}")
    return Decoded(
        key=sample.key,
        image=image,
        points=sample.points,
        observers=sample.observers,
        density=density,
    )


def _repack(density: bytes, name: str) -> bytes:
    """A density map's pixels as a PNG that decodes fast; one of more than 8 bits as it is."""
    image = open_picture(density, name)
    return encode_grey(np.asarray(image)) if image.mode == "L" else density


def _dump(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _load(data: bytes, name: str, dtype: np.dtype[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The array of a member; ValueError unless it has that type and shape (-1: any length)."""
    array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    rows = "N" if shape[0] < 0 else shape[0]
    if (
        array.dtype != dtype
        or array.ndim != 2
        or array.shape[1] != shape[1]
        or shape[0] not in (-1, len(array))
    ):
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {dtype} ({rows}, {shape[1]})")
    return array


def image_extension(data: bytes, name: str) -> str:
    """Of the member that holds a photograph; ValueError starting with `name` unless JPEG or PNG."""
    for signature, extension in SIGNATURES.items():
        if data.startswith(signature):
            return extension
    raise ValueError(f"{name} is neither a JPEG nor a PNG")
