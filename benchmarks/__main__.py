"""Run the benchmarks, each in a process of its own, and print the table.

    python -m benchmarks                  # the short ones, as `make bench`
    python -m benchmarks --long           # the long ones, as `make bench-long`
    python -m benchmarks metrics          # those that are named

Each benchmark is a file beside this one, with its own flags (`python -m benchmarks.metrics -h`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks.result_table import RESULTS, ROOT, table

SHORT = {
    "loss": [],
    "metrics": ["--num-images", "40", "--referee="],
    "step": ["--steps", "1"],
    "cached_decoder": [],
    "ray_train": [],
    "read_batches": [],
}
"""Files that `make bench` runs, with their arguments."""
LONG: dict[str, list[str]] = {
    "metrics": ["--num-images", "200"],
    "time_to_nss": [],
    "shards_build": [],
    "tune": [],
}
"""Files that `make bench-long` runs."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[[], *SHORT, *LONG], metavar="NAME")
    parser.add_argument("--long", action="store_true", help="the long ones")
    given = parser.parse_args()
    parts = LONG if given.long else SHORT
    chosen = {name: {**SHORT, **LONG, **parts}[name] for name in given.names or parts}
    failed = []
    for name, flags in chosen.items():
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{name}", *flags]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
        print(f"--- {name}: {time.monotonic() - began:.0f} s", flush=True)
    print(table(), f"in {RESULTS}", sep="\n")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
