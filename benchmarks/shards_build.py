"""Shards built per second by several threads, against one."""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.data import pictures
from benchmarks.result_table import save
from benchmarks.runner import Side, compare
from shards.build.build_options import BuildOptions
from shards.build.parallel import default_num_workers, threads
from shards.build.writer import build


def write(source, out, shard_size, num_workers):
    options = BuildOptions(shard_size=shard_size)

    def repeat():
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        build(Path(source), out, options, map_=threads(num_workers), progress=False)
        return time.perf_counter() - start

    return repeat


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard-size", type=int, default=50)
    parser.add_argument("--num-workers", type=int, default=default_num_workers())
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with pictures(200) as (source, _), tempfile.TemporaryDirectory() as scratch:
        many, one = (
            Side(
                "benchmarks.shards_build:write",
                source=str(source),
                out=f"{scratch}/{number}",
                shard_size=args.shard_size,
                num_workers=number,
            )
            for number in (args.num_workers, 1)
        )
        num_images = len(list((source / "images").rglob("*.jpg")))
        part = f"shards built of {num_images} photographs, {args.num_workers} threads"
        row = compare(part, "one thread", many, one, repeats=args.repeats)
        row.about["images_per_second"] = num_images / statistics.median(row.ours)
        many.close()
        one.close()
    save("shards_build", [row], threads=1)


if __name__ == "__main__":
    main()
