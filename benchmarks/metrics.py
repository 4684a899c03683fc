"""Times the metrics against pysaliency and against the usual numpy loops; one thread.

    python -m benchmarks.metrics --referee PATH/TO/python

The referee is a Python with pysaliency 0.2.22; tests/emlnet/metrics/make_pysaliency_expected.py
says how to make one.  Without a referee, its rows are left out.
Writes benchmarks/results/metrics.json, and pysaliency.json beside it.
"""

import argparse
import os

import numpy as np

from benchmarks.baseline import metric_loops
from benchmarks.baseline.metric_inputs import make_inputs
from benchmarks.result_table import save
from benchmarks.runner import REPEATS, Side, compare, compare_memory
from pipelines.ray_cluster.connection import WORKER_ENV

WITH_LOOPS = ("nss", "cc", "kl", "sim", "auc_judd")


def ours(num_images, num_fixations, batch_size, rules, names=()):
    """Return a function that scores all images, batch by batch."""
    import torch

    from emlnet.metrics.saliency_metrics import score

    arrays, centre, points = make_inputs(num_images, num_fixations)
    inputs = {name: torch.from_numpy(value)[:, None] for name, value in arrays.items()}
    flat = torch.from_numpy(points[..., 1] * centre.shape[-1] + points[..., 0])
    fixations = torch.zeros_like(inputs["saliency"])
    fixations.flatten(1).scatter_add_(1, flat, torch.ones(flat.shape))
    inputs["fixations"] = fixations
    inputs["nonfixations"] = fixations.sum(0, keepdim=True) - fixations  # Pysaliency keeps them.
    inputs["baseline_log_density"] = torch.from_numpy(centre).expand_as(fixations)

    def repeat():
        parts = [
            score(**{k: v[start : start + batch_size] for k, v in inputs.items()}, **options)
            for start in range(0, num_images, batch_size)
        ]
        return {name: torch.cat([part[name] for part in parts]).tolist() for name in parts[0]}

    options = {"rules": rules, "names": names}
    return repeat


def loops(num_images, num_fixations, names):
    """Return a function that scores image by image in numpy."""
    arrays, _, points = make_inputs(num_images, num_fixations)
    saliency, density = arrays["saliency"].astype(float), arrays["density"].astype(float)
    fixated = np.zeros(saliency.shape, bool)
    fixated[np.arange(num_images)[:, None], points[..., 1], points[..., 0]] = True

    def repeat():
        return {
            name: [
                float(getattr(metric_loops, name)(*pair))
                for pair in zip(
                    saliency, density if name in ("cc", "kl", "sim") else fixated, strict=True
                )
            ]
            for name in names
        }

    return repeat


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
    common = {"num_images": args.num_images, "num_fixations": args.num_fixations}

    def side(target, **options):
        # Both sides keep memory as training workers do.
        return Side(f"benchmarks.{target}", env=WORKER_ENV, **common, **options)

    def rows(part, against, own, baseline, reach=None):
        """Rows of seconds and memory, with the largest difference of the sides' values."""
        about = {**common, "batch_size": args.batch_size}
        row = compare(part, against, own, baseline, reach=reach, repeats=args.repeats, **about)
        row.about["largest_difference"] = {
            name: float(np.abs(np.subtract(values, baseline.notes[name])).max())
            for name, values in own.notes.items()
        }
        print(f"largest difference {max(row.about['largest_difference'].values()):.1e}", flush=True)
        memory = compare_memory(f"memory of {part}", against, own, baseline)
        own.close()
        baseline.close()
        return [row, memory]

    def own_side(**options):
        return side("metrics:ours", batch_size=args.batch_size, **options)

    if args.referee:
        referee = side("baseline.pysaliency_scores:baseline", python=args.referee)
        own = own_side(rules="tuebingen")
        found = rows("all tuebingen metrics", "pysaliency", own, referee, reach=4)
        save("pysaliency", found, threads=1)
    found = []
    for part, against, names in (
        ("AUC-Judd", "loop over thresholds", WITH_LOOPS[-1:]),
        ("mit NSS, CC, KL, SIM, AUC-Judd", "numpy, image by image", WITH_LOOPS),
    ):
        baseline = side("metrics:loops", names=names)
        found += rows(part, against, own_side(rules="mit", names=names), baseline)[:1]
    save("metrics", found, threads=1)


if __name__ == "__main__":
    main()
