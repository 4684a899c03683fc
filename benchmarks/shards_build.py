"""Shards built per second: by threads, by one, and by the usual serial writer.

Ours decodes and checks every picture, compares maps with fixations, and keeps checksums and an
index; the usual writer (benchmarks/baseline/shard_writer.py) copies files.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.baseline import shard_writer
from benchmarks.data import pictures
from benchmarks.result_table import save
from benchmarks.runner import Side, compare
from shards.build.build_options import BuildOptions
from shards.build.parallel import default_num_workers, threads
from shards.build.writer import build


def ours(source, out, shard_size, num_workers):
    options = BuildOptions(shard_size=shard_size)

    def repeat():
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        build(Path(source), out, options, map_=threads(num_workers), progress=False)
        return time.perf_counter() - start

    return repeat


def baseline(source, out, shard_size):
    def repeat():
        shutil.rmtree(out, ignore_errors=True)
        Path(out).mkdir(parents=True)
        start = time.perf_counter()
        shard_writer.write(Path(source), Path(out), shard_size)
        return time.perf_counter() - start

    return repeat


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shard-size", type=int, default=50)
    parser.add_argument("--num-workers", type=int, default=default_num_workers())
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with pictures(200) as (source, _), tempfile.TemporaryDirectory() as scratch:
        num_images = len(list((source / "images").rglob("*.jpg")))
        num_shards = sum(
            -(-len(list(split.glob("*.jpg"))) // args.shard_size)
            for split in (source / "images").iterdir()
        )
        common = {"source": str(source), "shard_size": args.shard_size}

        def side(name, function, **options):
            out = f"{scratch}/{name}"
            return Side(f"benchmarks.shards_build:{function}", out=out, **common, **options)

        sides = {
            "many": side("many", "ours", num_workers=args.num_workers),
            "one": side("one", "ours", num_workers=1),
            "usual": side("usual", "baseline"),
        }
        part = f"shards built of {num_images} photographs, {args.num_workers} threads"
        rows = [
            compare(part, against, sides["many"], sides[name], repeats=args.repeats, warm=1)
            for name, against in (("one", "one thread"), ("usual", "ShardWriter, no checks"))
        ]
        for row in rows:
            row.about["shards"] = num_shards
            row.about["shards_per_second"] = num_shards / statistics.median(row.ours)
            row.about["baseline_per_second"] = num_shards / statistics.median(row.baseline)
            print(f"{row.against}:", {k: round(v, 2) for k, v in row.about.items()})
        for side in sides.values():
            side.close()
    save("shards_build", rows, threads=1)


if __name__ == "__main__":
    main()
