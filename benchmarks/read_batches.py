"""Times reading: batches ready for the loss, against the usual loader.

    python -m benchmarks.read_batches

Two threads or processes decode, another takes the batches, whatever the number of cores.  A batch
is float32 pictures, densities that sum to 1, and fixations; the usual loader makes them in its
processes, ours on the device, here the CPU, when a batch has come.  Both sides keep memory as
training workers do.  Writes benchmarks/results/read_batches.json.
"""

import argparse
from pathlib import Path

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


def ours(shards):
    """One epoch a repetition."""
    loader = Loader(
        ShardReader(Path(shards), "train"),
        BATCH,
        shuffle=True,
        augmentation=Augmentation(flip=True),
        num_workers=NUM_WORKERS,
    )
    epochs = iter(range(1000))

    def repeat():
        for batch in loader.epoch(next(epochs)):
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with pictures() as (raw, packed):
        reader = ShardReader(packed, "train")
        own = Side("benchmarks.read_batches:ours", env=WORKER_ENV, shards=str(packed))
        usual = Side("benchmarks.read_batches:baseline", env=WORKER_ENV, raw=str(raw))
        row = compare(
            "ready for the loss",
            "PIL, scipy, float32",
            own,
            usual,
            reach=3,
            repeats=args.repeats,
            images=len(reader),
            bytes_per_image=round(sum(s.num_bytes for s in reader.shards) / len(reader)),
        )
        own.close()
        usual.close()
    print(f"{len(reader) / min(row.ours):.0f} images/s")
    save("read_batches", [row], threads=1)


if __name__ == "__main__":
    main()
