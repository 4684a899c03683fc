"""The usual serial writer: webdataset's ShardWriter over files in SALICON's layout.

It reads each sample's files and the gaze from its .mat and writes them; it decodes no picture,
checks nothing, and keeps no index.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
import webdataset as wds


def write(source: Path, out: Path, shard_size: int) -> None:
    """Writes all splits."""
    for split in sorted(path.name for path in (source / "fixations").iterdir()):
        pattern = str(out / f"{split}-%06d.tar")
        with wds.ShardWriter(pattern, maxcount=shard_size, verbose=0) as writer:
            for image in sorted((source / "images" / split).glob("*.jpg")):
                gaze = scipy.io.loadmat(source / "fixations" / split / f"{image.stem}.mat")["gaze"]
                points = [row["fixations"].reshape(-1, 2) for row in gaze.ravel()]
                writer.write(
                    {
                        "__key__": image.stem,
                        "jpg": image.read_bytes(),
                        "fixations.npy": np.concatenate(points).astype(np.int32) - 1,
                        "density.png": (source / "maps" / split / f"{image.stem}.png").read_bytes(),
                    }
                )
