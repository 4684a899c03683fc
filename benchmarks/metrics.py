"""Times the metrics against pysaliency and against the usual numpy loops; one thread.

    python -m benchmarks.metrics --referee PATH/TO/python

The referee is a Python that has pysaliency 0.2.22; how to make one is said in
tests/emlnet/metrics/make_pysaliency_expected.py.  Without it its rows are left out.
Writes benchmarks/results/metrics.json, and pysaliency.json beside it.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from benchmarks.baseline import metric_loops
from benchmarks.baseline.metric_inputs import make_inputs
from benchmarks.records import Row, line, save
from benchmarks.runner import REPEATS, compare, peak, reset_peak
from emlnet.metrics import saliency_metrics

HERE = Path(__file__).parent


class Referee:
    """A process with pysaliency, which repeats its scores when asked."""

    def __init__(self, python, num_images, num_fixations):
        self.peaks = []
        script = HERE / "baseline" / "metric_referee.py"
        self.process = subprocess.Popen(
            [python, "-W", "ignore", script, str(num_images), str(num_fixations)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{python} could not run {script}")

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.peaks.append(answer["peak"] / 2**20)
        return answer["seconds"], {k: np.array(v) for k, v in answer["scores"].items()}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def timed(function):
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def compare_values(part, against, ours, baseline, *, repeats, reach=None, **about):
    """A row of seconds; its `about` has the largest difference of the sides' values by metric."""
    values = {}

    def keeping(side, run):
        def repeat():
            seconds, values[side] = run()
            return seconds

        return repeat

    sides = keeping("ours", ours), keeping("baseline", baseline)
    row = compare(part, against, *sides, reach=reach, repeats=repeats, **about)
    differences = {
        name: float(np.abs(value - values["baseline"][name]).max())
        for name, value in values["ours"].items()
    }
    row.about["largest_difference"] = differences
    print(f"{part}: largest difference {max(differences.values()):.1e}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--referee",
        default=os.environ.get("EMLNET_REFEREE"),
        help="a Python with pysaliency 0.2.22; default: EMLNET_REFEREE",
    )
    parser.add_argument("--num-images", type=int, default=200, help="480 x 640 each")
    parser.add_argument("--num-fixations", type=int, default=500, help="SALICON's mean")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--batch-size", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)

    arrays, baseline, points = make_inputs(args.num_images, args.num_fixations)
    maps = {name: torch.from_numpy(value)[:, None] for name, value in arrays.items()}
    flat = torch.from_numpy(points[..., 1] * maps["saliency"].shape[-1] + points[..., 0])
    fixations = torch.zeros_like(maps["saliency"])
    fixations.flatten(1).scatter_add_(1, flat, torch.ones(flat.shape))
    nonfixations = fixations.sum(0, keepdim=True) - fixations  # pysaliency keeps them as well.
    centre = torch.from_numpy(baseline).expand_as(fixations)
    batches = [
        slice(start, start + args.batch_size) for start in range(0, len(fixations), args.batch_size)
    ]

    def score_all():
        def run():
            parts = [
                saliency_metrics.score(
                    **{name: value[batch] for name, value in maps.items()},
                    fixations=fixations[batch],
                    nonfixations=nonfixations[batch],
                    baseline_log_density=centre[batch],
                )
                for batch in batches
            ]
            return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}

        return timed(run)

    saliency, density = arrays["saliency"].astype(float), arrays["density"].astype(float)
    fixated = fixations[:, 0].numpy() > 0

    def judd_of(batch):
        inputs = maps["saliency"][batch], fixations[batch]
        return saliency_metrics.score(*inputs, rules="mit", names=["auc_judd"])["auc_judd"]

    def judd():
        return timed(lambda: {"auc_judd": torch.cat([judd_of(b) for b in batches]).numpy()})

    def judd_loop():
        pairs = list(zip(saliency, fixated, strict=True))
        return timed(lambda: {"auc_judd": np.array([metric_loops.auc_judd(*p) for p in pairs])})

    def mit():
        def run():
            parts = [
                saliency_metrics.score(
                    maps["saliency"][b], fixations[b], maps["density"][b], rules="mit"
                )
                for b in batches
            ]
            return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}

        return timed(run)

    def mit_loop():
        def run():
            rows = list(zip(saliency, density, fixated, strict=True))
            return {
                "nss": np.array([metric_loops.nss(s, f) for s, _, f in rows]),
                "cc": np.array([metric_loops.cc(s, d) for s, d, _ in rows]),
                "kl": np.array([metric_loops.kl(s, d) for s, d, _ in rows]),
                "sim": np.array([metric_loops.sim(s, d) for s, d, _ in rows]),
                "auc_judd": np.array([metric_loops.auc_judd(s, f) for s, _, f in rows]),
            }

        return timed(run)

    about = {
        "repeats": args.repeats,
        "images": args.num_images,
        "size": list(maps["saliency"].shape[-2:]),
        "fixations_per_image": args.num_fixations,
        "batch_size": args.batch_size,
    }
    if args.referee:
        referee = Referee(args.referee, args.num_images, args.num_fixations)
        part = "all tuebingen metrics"
        before, peaks = reset_peak(), []

        def score_all_watched():
            reset_peak()
            answer = score_all()
            peaks.append((peak() - before) / 2**20)
            return answer

        row = compare_values(part, "pysaliency", score_all_watched, referee.run, reach=10, **about)
        referee.close()
        memories = Row(
            part=f"memory of {part}",
            against="pysaliency",
            ours=tuple(peaks),
            baseline=tuple(referee.peaks),
            reach=1,
            unit="MiB",
        )
        print(line(memories))
        save("pysaliency", [row, memories], threads=1)
    part = "mit NSS, CC, KL, SIM, AUC-Judd"
    rows = [
        compare_values("AUC-Judd", "loop over thresholds", judd, judd_loop, **about),
        compare_values(part, "numpy, image by image", mit, mit_loop, **about),
    ]
    save("metrics", rows, threads=1)


if __name__ == "__main__":
    main()
