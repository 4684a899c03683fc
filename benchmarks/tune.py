"""What a search over loss weights costs, and what its cheap ranking is worth.

    python -m benchmarks.tune
    python -m benchmarks.tune --data SHARDS --out FOLDER -- --backbone efficientnet_lite0

Searches as `python -m tune loss-weights` does, on OSIE or on other shards, with FLAGS or with those
after `--`. Two rows: epochs that trials ran, against all of them in full; and the rank correlation
(Spearman) of the scores that the search saw with those of some of its trials, evenly spread over
the ranking, trained again in full: all epochs, whole pictures. The search's scores are those of the
last epoch that all trials have, so that one that was stopped early counts as well. Goes on where it
was broken off.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.data import pictures
from benchmarks.records import RESULTS, ROOT, Row, line, save
from pipelines.config.flags import BEST_WEIGHTS
from pipelines.config.options import num_cpus
from shards.files.manifest import Manifest
from tune.__main__ import parse
from tune.importance import common_epoch
from tune.live import Display
from tune.proposals import Proposals
from tune.results import Spec, TrialRecord, ended, find_record, find_records, scored
from tune.search import finish, open_search, run_search
from tune.search_config import LossWeightsCommand
from tune.subjects import open_folder
from tune.tuner import run_trials

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
    """Searches, trains some of the trials in full, and writes both rows."""
    line_of_flags = ["loss-weights", "--data", str(data), "--out", str(out)]
    command = parse([*line_of_flags, "--final-seeds", "0", *given.flags])
    assert isinstance(command, LossWeightsCommand)
    folder, frozen = open_folder(command, Manifest.load(data))
    objective = command.search.objectives[0]
    with open_search(command, folder, frozen) as (setting, place, at_once):
        run_search(command, setting, place, at_once)
        finish(command, setting, place)
        cost = json.loads((folder / BEST_WEIGHTS).read_text())["cost"]
        chosen = spread_out(find_records(folder), objective, given.num_full)
        specs = [Spec(point=r.spec.point, seed=r.spec.seed, final=True) for r in chosen]
        done = {record.spec.key for record in ended(find_records(folder, final=True))}
        left = [spec for spec in specs if spec.key not in done]
        if left:
            with Display(folder, setting.objectives, len(specs), at_once, final=True) as display:
                proposals = Proposals(folder, left)
                run_trials(setting, place, proposals, len(left), at_once, display.update)
        cheap, full = [], []
        for record, spec in zip(chosen, specs, strict=True):
            found = find_record(folder, spec)
            if found is not None and found.state == "finished":
                cheap.append(cheap_score(record, objective, common_epoch(find_records(folder))))
                full.append(found.scores[objective])
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
            about={**cost, "scale": command.scale, "subject": setting.subject.title},
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


def cheap_score(record: TrialRecord, objective: str, epoch: int) -> float:
    """What the search saw of a trial after an epoch."""
    report = next(each for each in record.history if each["epoch"] == epoch)
    return float(report["scores"][objective])


def spread_out(records: list[TrialRecord], objective: str, number: int) -> list[TrialRecord]:
    """Some trials, from the best to the worst by the cheap score."""
    epoch = common_epoch(records)
    ranked = sorted(scored(records), key=lambda r: cheap_score(r, objective, epoch))
    places = np.linspace(0, len(ranked) - 1, min(number, len(ranked))).round().astype(int)
    return [ranked[place] for place in dict.fromkeys(places.tolist())]


if __name__ == "__main__":
    main()
