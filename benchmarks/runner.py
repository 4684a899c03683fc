"""What every benchmark shares: two sides repeated in turn, and one JSON file per part.

    from benchmarks.runner import Side, compare, save

    row = compare(
        "loss, forward and backward",           # the part
        "loop over the images",                 # what it is measured against
        Side("benchmarks.loss:ours"),           # each side a process of its own ...
        Side("benchmarks.loss:baseline"),       # ... or any callable in this one
        reach=3,
    )
    save("loss", [row], threads=2)              # benchmarks/results/loss.json and table.md

A side is called once for each repetition; it returns its own seconds, or None to be timed from
outside. Each pair of repetitions runs back to back, and the order turns round from pair to pair,
so that a slow moment of the machine meets both. Every row has a ratio, baseline over ours, that is
to reach `reach` or more: 3 is three times faster (or three times less memory), 0.98 is 2 % slower.
A row with a limit instead of a baseline (15 s, say) has the limit as its baseline.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
REPEATS = 5
VERSIONS = ("torch", "torchvision", "timm", "numpy", "ray", "webdataset", "mlflow")

Repetition = Callable[[], float | None]
"""One repetition of a side: its seconds, or None to be timed from outside."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    part: what was measured.  against: what with.  ours, baseline: one value per repetition, or
    per run, less is better.  reach: the least ratio that is wanted, None where none is.
    unit: of the values.  about: sizes, counts, whatever else the figures depend on.
    """

    part: str
    against: str
    ours: tuple[float, ...]
    baseline: tuple[float, ...]
    reach: float | None = None
    unit: str = "s"
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Median of the baseline over the median of ours."""
        return statistics.median(self.baseline) / statistics.median(self.ours)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest ratio of a pair of repetitions."""
        longest = max(len(self.ours), len(self.baseline))
        ours, baseline = (side * (longest // len(side)) for side in (self.ours, self.baseline))
        ratios = [theirs / own for own, theirs in zip(ours, baseline, strict=True)]
        return min(ratios), max(ratios)

    @property
    def reached(self) -> bool | None:
        """Whether the ratio is what was wanted."""
        return None if self.reach is None else self.ratio >= self.reach


class Side:
    """One side of a comparison in a process of its own, which repeats when it is called.

    target: `module:function`; called there once with `options`, it returns what to repeat.
    threads: torch's and OpenMP's.  env: more of the process's environment.
    """

    def __init__(
        self, target: str, *, threads: int = 1, env: dict[str, str] | None = None, **options: Any
    ) -> None:
        self.peaks: list[int] = []
        """Most memory in use during each repetition above what the process began with, bytes."""
        self.notes: dict[str, Any] = {}
        """What the latest repetition returned, where that is a dict."""
        command = [sys.executable, "-m", "benchmarks.runner", "--side", target]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads), "--options", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **(env or {})},
        )
        self._answer()

    def __call__(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peaks.append(answer["peak"])
        self.notes = answer["notes"]
        return float(answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(
    part: str,
    against: str,
    ours: Repetition,
    baseline: Repetition,
    *,
    reach: float | None = None,
    repeats: int = REPEATS,
    warm: int = 1,
    **about: Any,
) -> Row:
    """Seconds of both sides in alternating repetitions, after `warm` that do not count."""
    seconds: dict[Repetition, list[float]] = {ours: [], baseline: []}
    for repetition in range(-warm, repeats):
        pair = (ours, baseline) if repetition % 2 == 0 else (baseline, ours)
        for side in pair:
            start = time.perf_counter()
            own = side()
            taken = time.perf_counter() - start if own is None else own
            if repetition >= 0:
                seconds[side].append(taken)
    row = Row(
        part=part,
        against=against,
        ours=tuple(seconds[ours]),
        baseline=tuple(seconds[baseline]),
        reach=reach,
        about=about,
    )
    print(line(row), flush=True)
    return row


def compare_memory(part: str, against: str, ours: Side, baseline: Side, **about: Any) -> Row:
    """The most memory that each repetition of two sides took; not above the baseline's is wanted.

    Both have been repeated before, so that what they keep is counted as theirs.
    """
    row = Row(
        part=part,
        against=against,
        ours=tuple(peak / 2**20 for peak in ours.peaks),
        baseline=tuple(peak / 2**20 for peak in baseline.peaks),
        reach=1,
        unit="MiB",
        about=about,
    )
    print(line(row), flush=True)
    return row


def save(name: str, rows: Sequence[Row], *, threads: int, folder: Path = RESULTS) -> Path:
    """Writes the rows of a part with all that they depend on, and the table of all parts."""
    content = {
        "machine": machine(),
        "threads": threads,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "rows": [
            {**asdict(row), "ratio": row.ratio, "spread": row.spread, "reached": row.reached}
            for row in rows
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    _write(path, json.dumps(content, indent=1) + "\n")
    _write(folder / "table.md", table(folder))
    return path


def table(folder: Path = RESULTS) -> str:
    """The Markdown table of all results in a folder."""
    parts = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    parts = [
        part for part in parts if "rows" in part
    ]  # A card's figures have a table of their own.
    lines = [
        "| part | against | ours | baseline | ratio (pairs) | to reach | threads | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in parts:
        for row in part["rows"]:
            low, high = row["spread"]
            reach = "" if row["reach"] is None else f"{row['reach']:g}"
            mark = {True: "", False: ", **not reached**", None: ""}[row["reached"]]
            cells = [
                row["part"],
                row["against"],
                amount(row["ours"], row["unit"]),
                amount(row["baseline"], row["unit"]),
                f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})",
                reach + mark,
                str(part["threads"]),
                re.sub("^(.{7})[0-9a-f]*", r"\1", part["commit"] or ""),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    about = sorted({machine_line(part["machine"]) for part in parts})
    notes = "Medians; ratio is baseline over ours, in brackets its range over pairs of repetitions."
    return "\n".join([*lines, "", notes, *about]) + "\n"


def amount(values: Sequence[float], unit: str) -> str:
    """The median of some values, three digits, in a unit that suits."""
    value = statistics.median(values)
    if unit == "s" and value < 1:
        value, unit = value * 1000, "ms"
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


def line(row: Row) -> str:
    """A row in words, for the terminal."""
    low, high = row.spread
    wanted = "" if row.reach is None else f", wanted {row.reach:g}"
    values = f"{amount(row.ours, row.unit)} against {amount(row.baseline, row.unit)}"
    return f"{row.part}: {values}, ratio {row.ratio:.2f} ({low:.2f} to {high:.2f}{wanted})"


def machine() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    import torch

    installed = {}
    for name in VERSIONS:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [text.partition(":")[2].strip() for text in info.splitlines() if "model name" in text]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": installed,
    }


def machine_line(about: dict[str, Any]) -> str:
    """A machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    what = f"{about['cpu']} ({about['capability']}), {about['cores']} cores"
    gpu = f", {about['gpu']}" if about["gpu"] else ""
    return f"{what}, {about['memory_gib']} GiB{gpu}; Python {about['python']}, {versions}."


def commit() -> str | None:
    """The checkout's commit, with `-dirty` when files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def reset_peak() -> int:
    """Memory that this process has in use, bytes, from which its peak counts anew (on Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def peak() -> int:
    """The most memory that this process had in use since `reset_peak`, bytes."""
    try:
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(text.split()[1] for text in status if text.startswith("VmHWM")))
    except OSError:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(target: str, threads: int, options: dict[str, Any]) -> None:
    """The other end of a Side: a repetition for each line on standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What a library prints is no answer.
    import torch

    torch.set_num_threads(threads)
    module, _, function = target.partition(":")
    repeat = getattr(importlib.import_module(module), function)(**options)
    before = reset_peak()
    print("{}", file=answers, flush=True)
    for _ in sys.stdin:
        reset_peak()
        start = time.perf_counter()
        returned = repeat()
        seconds = time.perf_counter() - start
        if isinstance(returned, float):
            seconds = returned
        notes = returned if isinstance(returned, dict) else {}
        answer = {"seconds": seconds, "peak": peak() - before, "notes": notes}
        print(json.dumps(answer), file=answers, flush=True)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One side of a comparison; see Side.")
    parser.add_argument("--side", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    serve(given.side, given.threads, given.options)
