"""Encode a sample as a record of a shard, decode it, and decode its pictures.

A record is the part of the tar with the sample's members.  There are three:
`<stem>.jpg` (or .png), the photograph byte for byte; `<stem>.fixations.npy`, int32 rows of x, y,
observer; `<stem>.density.png`, the density map.  If the source has times, there is a fourth:
`<stem>.timing.npy`, float32 rows of onset and duration in milliseconds.
WebDataset takes everything after the first dot of a name as its extension.  Dots in a stem are
therefore written as %2E, and percent signs as %25.
"""

from __future__ import annotations

import io
import tarfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emlnet.data.samples import Decoded, Sample
from shards.files.stored_pictures import decode_density, decode_photograph, picture_suffix

POINTS = "fixations.npy"
TIMING = "timing.npy"
DENSITY = "density.png"
PHOTOGRAPHS = ("jpg", "jpeg", "png")
TAR_END = 2 * tarfile.BLOCKSIZE
"""Zero bytes that end a tar."""


def member_stem(key: str) -> str:
    """Return the name that the members of sample `split/stem` share: the stem, dots escaped."""
    return key.split("/", 1)[1].replace("%", "%25").replace(".", "%2E")


def encode_record(sample: Sample) -> bytes:
    """Return the sample's record, without the end of a tar; equal samples give equal bytes.

    Concatenated records and then `TAR_END` zero bytes are a tar.
    Raises ValueError if the photograph is neither JPEG nor PNG, or the key cannot name a file.
    """
    table = np.column_stack([sample.points, sample.observers]).astype(np.int32)
    members = {
        picture_suffix(sample.image, sample.key): sample.image,
        POINTS: _dump(table),
        DENSITY: sample.density,
    }
    if sample.timing is not None:
        members[TIMING] = _dump(sample.timing.astype(np.float32))
    stem = member_stem(sample.key)
    not_utf8 = any("\ud800" <= letter <= "\udfff" for letter in stem)
    if not stem or not_utf8 or set(stem) & set("/\\\0"):
        raise ValueError(f"{sample.key!r} cannot name a file in a tar; rename the photograph")
    record = io.BytesIO()
    # TarInfo's defaults fix times, users and modes, so bytes never vary. PAX allows any name.
    with tarfile.open(fileobj=record, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for extension, content in sorted(members.items()):
            info = tarfile.TarInfo(f"{stem}.{extension}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        length = tar.offset
    return record.getvalue()[:length]


def decode_record(record: bytes, key: str) -> Sample:
    """Return the sample `key` (`split/stem`) from its record.

    Raises ValueError naming the sample if the bytes are truncated or hold anything else.
    """
    try:
        members = _members(record, key)
        images = [extension for extension in PHOTOGRAPHS if extension in members]
        if len(images) != 1 or POINTS not in members or DENSITY not in members:
            raise ValueError(f"holds only {sorted(members)}")
        table = _load(members[POINTS], POINTS, np.int32, 3)
        timing = _load(members[TIMING], TIMING, np.float32, 2) if TIMING in members else None
        if timing is not None and len(timing) != len(table):
            raise ValueError(f"{TIMING} has {len(timing)} rows for {len(table)} fixations")
    except Exception as error:  # tarfile and numpy raise many kinds of errors for broken bytes
        reason = error.args[0] if error.args else type(error).__name__
        raise ValueError(f"sample {key} cannot be read from its shard: {reason}") from error
    return Sample(
        key=key,
        image=members[images[0]],
        points=np.ascontiguousarray(table[:, :2]),
        observers=np.ascontiguousarray(table[:, 2]),
        density=members[DENSITY],
        timing=timing,
    )


def _members(record: bytes, key: str) -> dict[str, bytes]:
    """Return the members of sample `key` by extension; ValueError for any other member."""
    # Shards built before dots were escaped have the stem itself.
    extensions = {
        f"{stem}.{extension}": extension
        for stem in (member_stem(key), key.split("/", 1)[1])
        for extension in (POINTS, TIMING, DENSITY, *PHOTOGRAPHS)
    }
    members: dict[str, bytes] = {}
    with tarfile.TarFile(fileobj=io.BytesIO(record + bytes(TAR_END))) as tar:
        for info in tar:
            extension = extensions.get(info.name)
            if extension is None or extension in members or not info.isreg():
                raise ValueError(f"it holds {info.name!r}")
            members[extension] = record[info.offset_data : info.offset_data + info.size]
            if len(members[extension]) != info.size:
                raise ValueError(f"{info.name} is truncated")
    return members


def decode_pictures(sample: Sample) -> Decoded:
    """Decode the photograph to upright RGB, alpha on white, and the density map.

    Raises ValueError naming the sample if a picture is broken or has too many pixels, if the two
    differ in size, or if a fixation lies outside.
    """
    image = decode_photograph(sample.image, f"{sample.key}: the photograph")
    density = decode_density(sample.density, f"{sample.key}: the density map")
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


def _dump(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _load(data: bytes, name: str, dtype: type[np.generic], num_columns: int) -> NDArray[Any]:
    """Return the array of a member; ValueError unless it is (N, num_columns) of that type."""
    array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype != dtype or array.ndim != 2 or array.shape[1] != num_columns:
        expected = f"{np.dtype(dtype)} (N, {num_columns})"
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {expected}")
    return array
