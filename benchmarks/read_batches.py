"""Times reading: batches ready for the loss against the usual loader, pictures against JPEGs.

    python -m benchmarks.read_batches

Two threads or processes decode, another takes the batches, whatever the number of cores. Writes
benchmarks/results/read_batches.json.

`ready` is a float32 picture, a density that sums to 1, and fixations; the usual loader makes them
in its processes, ours on the device, here the CPU, when a batch has come. `pictures` are uint8
photographs, density maps and points, against torchvision's decode_jpeg on only the photographs, in
as many processes, which return nothing.  Both sides keep memory as training workers do.
"""

import argparse
import json
import multiprocessing
from pathlib import Path

import torch

from benchmarks.baseline import plain_loader
from benchmarks.data import pictures
from benchmarks.result_table import save
from benchmarks.runner import Side, compare
from emlnet.data.augment import Augmentation
from emlnet.data.batches import prepare_image, prepare_targets
from pipelines.ray_cluster.connection import WORKER_ENV
from shards.read.loader import Loader
from shards.read.reader import ShardReader

BATCH, NUM_WORKERS = 8, 2


def ours(shards, ready):
    """One epoch a repetition."""
    loader = Loader(
        ShardReader(Path(shards), "train"),
        BATCH,
        shuffle=True,
        augmentation=Augmentation(flip=ready),
        num_workers=NUM_WORKERS,
    )
    epochs = iter(range(1000))

    def repeat():
        for batch in loader.epoch(next(epochs)):
            if ready:
                prepare_image(batch)
                prepare_targets(batch)

    return repeat


def baseline(raw):
    """One epoch of the usual loader a repetition."""
    loader = plain_loader.loader(Path(raw), BATCH, NUM_WORKERS)

    def repeat():
        for _ in loader:
            pass

    return repeat


def decode_all(names):
    """Decodes files with torchvision."""
    from torchvision.io import decode_jpeg

    torch.set_num_threads(1)
    for name in names:
        decode_jpeg(torch.frombuffer(bytearray(Path(name).read_bytes()), dtype=torch.uint8))


def jpegs(raw):
    """All photographs decoded once a repetition, in as many processes."""
    names = sorted(map(str, (Path(raw) / "images/train").glob("*.jpg")))
    pool = multiprocessing.get_context("forkserver").Pool(NUM_WORKERS)
    parts = [names[start::NUM_WORKERS] for start in range(NUM_WORKERS)]

    def repeat():
        pool.map(decode_all, parts, chunksize=1)

    return repeat


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with pictures() as (raw, shards):
        reader = ShardReader(shards, "train")
        stored = sum(shard.num_bytes for shard in reader.shards) / len(reader)
        about = {"images": len(reader), "bytes_per_image": round(stored)}

        def side(name, **options):
            return Side(f"benchmarks.read_batches:{name}", env=WORKER_ENV, **options)

        ours_at = {"shards": str(shards)}
        theirs = {"raw": str(raw)}
        rows = []

        def row(part, against, reach, ours, baseline):
            options = {"reach": reach, "repeats": given.repeats}
            rows.append(compare(part, against, ours, baseline, **options, **about))
            ours.close()
            baseline.close()

        loader = side("ours", **ours_at, ready=True)
        row("ready for the loss", "PIL, scipy, float32", 3, loader, side("baseline", **theirs))
        loader = side("ours", **ours_at, ready=False)
        row("pictures, maps, points", "only the JPEGs", None, loader, side("jpegs", **theirs))
        print(json.dumps({row.part: len(reader) / min(row.ours) for row in rows}), "images/s")
        save("read_batches", rows, threads=1)


if __name__ == "__main__":
    main()
