"""The cost of a search over loss weights, and the quality of its cheap ranking.

    python -m benchmarks.tune
    python -m benchmarks.tune --data SHARDS --out FOLDER -- --backbone efficientnet_lite0

Searches as `python -m tune loss-weights` does, on OSIE or on other shards, with FLAGS or with those
after `--`. Two rows: epochs that trials ran, against all of them in full; and the rank correlation
(Spearman) of the scores that the search saw with those of some of its trials, evenly spread over
the ranking, trained again in full: all epochs, whole pictures. The search's scores are those of the
last epoch that all trials have, so that a trial that was stopped early counts as well. Given again,
it resumes.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.data import pictures
from benchmarks.result_table import RESULTS, ROOT, Row, line, save
from pipelines.config.flags import BEST_WEIGHTS
from pipelines.config.options import num_cpus
from shards.files.manifest import Manifest
from tune.__main__ import parse
from tune.records import TrialRecord
from tune.search import finish, open_folder, open_search, run_search, train_in_full

FLAGS = (
    *("--backbone", "efficientnet_lite0", "--size", "240", "320", "--epochs", "4"),
    *("--num-trials", "24", "--trial-scale", "0.67", "--trial-epochs", "3"),
)
"""Of the search, unless others are given."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of shards; default: OSIE's pictures")
    parser.add_argument("--out", type=Path, help="folder of the search; default: runs/bench-tune")
    parser.add_argument("--num-full", type=int, default=8, help="trials to train in full")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("flags", nargs="*", default=FLAGS, help="of the search")
    given = parser.parse_args()
    with ExitStack() as stack:
        data = given.data or stack.enter_context(pictures())[1]
        measure(data, given.out or ROOT / "runs" / "bench-tune", given)


def measure(data: Path, out: Path, given: argparse.Namespace) -> None:
    """Search, train some of the trials in full, and write both rows."""
    first_flags = ["loss-weights", "--data", str(data), "--out", str(out)]
    command = parse([*first_flags, "--final-seeds", "0", *given.flags])
    folder, frozen = open_folder(command, Manifest.load(data))
    objective = command.search.objectives[0]
    with open_search(command, folder, frozen) as search:
        trials, choice = run_search(search)
        finish(search, trials, choice, [])
        cost = json.loads((folder / BEST_WEIGHTS).read_text())["cost"]
        chosen = spread_out(trials, objective, given.num_full)
        finals = train_in_full(search, [(r.point, r.seed) for r in chosen])
    cheap, full = [], []
    for record in chosen:
        final = next((f for f in finals if (f.point, f.seed) == (record.point, record.seed)), None)
        if final is not None and final.state == "finished":
            cheap.append(cheap_score(record, objective, common_epoch(trials)))
            full.append(final.scores[objective])
    if len(full) < 3:
        raise SystemExit(f"{len(full)} trials finished in full, too few for a correlation")
    correlation = float(spearmanr(cheap, full).statistic)
    rows = [
        Row(
            part="loss weights, epochs of a search",
            against="every trial in full",
            ours=(float(cost["trial_epochs"]),),
            baseline=(float(cost["full_epochs"]),),
            unit="epochs",
            about={**cost, "scale": command.scale, "subject": search.job.title},
        ),
        Row(
            part="loss weights, rank correlation of cheap trials",
            against="the same in full (1 is the same order)",
            ours=(1.0,),
            baseline=(correlation,),
            unit="",
            about={"objective": objective, "cheap": cheap, "full": full},
        ),
    ]
    for row in rows:
        print(line(row))
    save("tune", rows, threads=num_cpus(), folder=given.results)


def scored(records: list[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that have scores."""
    return [record for record in records if record.history and not record.reason]


def common_epoch(records: list[TrialRecord]) -> int:
    """Return the last epoch that all trials with scores have."""
    return min(record.num_trained for record in scored(records))


def cheap_score(record: TrialRecord, objective: str, epoch: int) -> float:
    """Return what the search saw of a trial after an epoch."""
    report = next(each for each in record.history if each["epoch"] == epoch)
    return float(report["scores"][objective])


def spread_out(records: list[TrialRecord], objective: str, number: int) -> list[TrialRecord]:
    """Return some trials, from the worst to the best by the cheap score."""
    epoch = common_epoch(records)
    ranked = sorted(scored(records), key=lambda r: cheap_score(r, objective, epoch))
    places = np.linspace(0, len(ranked) - 1, min(number, len(ranked))).round().astype(int)
    return [ranked[place] for place in dict.fromkeys(places.tolist())]


if __name__ == "__main__":
    main()
