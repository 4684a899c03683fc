"""The results of benchmarks: rows, one JSON file per part, one Markdown table of all parts.

    save("loss", [row], threads=2)              # benchmarks/results/loss.json and table.md

Every row has a ratio, baseline over ours: 3 is three times faster (or a third of the memory), 0.98
is 2 % slower. The target is a ratio of at least `reach`. A row with a limit instead of a baseline
(say 15 s) has the limit as its baseline.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from emlnet.atomic_files import write_text

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
VERSIONS = ("torch", "torchvision", "timm", "numpy", "ray", "webdataset", "mlflow")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    part: what was measured.  against: the name of the baseline.  ours, baseline: one value per
    repetition, or per run; less is better.  reach: the target, the least ratio; None without one.
    unit: the values' unit.  about: sizes, counts and all else that the figures depend on.
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
        """Whether the ratio reaches the target; None without a target."""
        return None if self.reach is None else self.ratio >= self.reach


def save(name: str, rows: Sequence[Row], *, threads: int, folder: Path = RESULTS) -> Path:
    """Write the rows of a part with all that they depend on, and the table of all parts."""
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
    path = folder / f"{name}.json"
    write_text(path, json.dumps(content, indent=1) + "\n")
    write_text(folder / "table.md", table(folder))
    return path


def table(folder: Path = RESULTS) -> str:
    """Return the Markdown table of all results in a folder."""
    parts = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    parts = [part for part in parts if "rows" in part]  # `gpu.json` has a table of its own.
    lines = [
        "| part | against | ours | baseline | ratio (pairs) | target | threads | commit |",
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
    """Return the median of some values with three digits and a suitable unit."""
    value = statistics.median(values)
    if unit == "s" and value < 1:
        value, unit = value * 1000, "ms"
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


def line(row: Row) -> str:
    """Return a row in words, for the terminal."""
    low, high = row.spread
    target = "" if row.reach is None else f", target {row.reach:g}"
    values = f"{amount(row.ours, row.unit)} against {amount(row.baseline, row.unit)}"
    return f"{row.part}: {values}, ratio {row.ratio:.2f} ({low:.2f} to {high:.2f}{target})"


def machine() -> dict[str, Any]:
    """Return the machine and the versions that figures depend on."""
    import torch

    installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    info = Path("/proc/cpuinfo").read_text()
    models = [text.partition(":")[2].strip() for text in info.splitlines() if "model name" in text]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in VERSIONS if name in installed},
    }


def machine_line(about: dict[str, Any]) -> str:
    """Return a machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    what = f"{about['cpu']} ({about['capability']}), {about['cores']} cores"
    gpu = f", {about['gpu']}" if about["gpu"] else ""
    return f"{what}, {about['memory_gib']} GiB{gpu}; Python {about['python']}, {versions}."


def commit() -> str | None:
    """Return the checkout's commit, with `-dirty` if files other than results differ from it."""
    changed = ["git", "status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}"]
    try:
        head, changes = (
            subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for command in (["git", "rev-parse", "HEAD"], changed)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + "-dirty" * bool(changes.strip())
