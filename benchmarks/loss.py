"""Times the loss, forward and backward, against the usual loop over the images of a batch.

    python -m benchmarks.loss

Writes benchmarks/results/loss.json.
"""

import argparse
import os

import torch

from benchmarks.baseline import plain_loss
from benchmarks.baseline.metric_inputs import make_inputs
from benchmarks.result_table import save
from benchmarks.runner import Side, compare, compare_memory
from emlnet.data.targets import Targets
from emlnet.losses import LossWeights, saliency_loss

NUM_FIXATIONS = 500
"""SALICON's mean."""
CALLS = 4
"""Calls of a loss in one repetition."""


def inputs(batch_size, device="cpu"):
    """Saliency maps in 0..1, densities, binary fixation maps, all (B, 1, H, W), and targets."""
    arrays, _, points = make_inputs(batch_size, NUM_FIXATIONS)
    maps = {name: torch.from_numpy(array)[:, None].to(device) for name, array in arrays.items()}
    prediction = maps["saliency"] / maps["saliency"].amax((2, 3), keepdim=True)
    density = maps["density"] / maps["density"].sum((2, 3), keepdim=True)
    height, width = density.shape[-2:]
    place = torch.from_numpy(points[..., 1] * width + points[..., 0])
    place += torch.arange(batch_size)[:, None] * height * width
    index, counts = place.unique(return_counts=True)
    targets = Targets(
        density=density,
        index=index.to(device),
        counts=counts.float().to(device),
        weight=torch.ones(batch_size, device=device),
    )
    fixation = (targets.fixation_map() > 0).float()
    return prediction, density, fixation, targets


def ours(batch_size, kind, terms):
    prediction, _, _, targets = inputs(batch_size)
    if kind == "density":
        prediction = prediction.flatten(1).log_softmax(1).view_as(prediction)
    weights = LossWeights(kl=1, cc=1, nss=1)

    def repeat():
        for _ in range(CALLS):
            output = prediction.detach().requires_grad_()
            loss = saliency_loss(output, targets, weights, kind, terms)[0].mean()
            loss.backward()
        return {"loss": loss.item(), "gradient": output.grad.flatten()[::997].tolist()}

    return repeat


def baseline(batch_size):
    prediction, density, fixation, _ = inputs(batch_size)

    def repeat():
        for _ in range(CALLS):
            output = prediction.detach().requires_grad_()
            loss, _ = plain_loss.loss(output, density, fixation)
            loss.backward()
        return {"loss": loss.item(), "gradient": output.grad.flatten()[::997].tolist()}

    return repeat


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=8, help="maps of 480 x 640")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    common = {"threads": args.threads, "batch_size": args.batch_size}
    loop = Side("benchmarks.loss:baseline", **common)
    rows = []
    for kind, terms, reach in (("eml", "reference", 3), ("density", "exact", None)):
        own = Side("benchmarks.loss:ours", kind=kind, terms=terms, **common)
        loop.peaks.clear()
        row = compare(
            f"loss, forward and backward, `{kind}` map, `{terms}` terms",
            "loop over the images, `reference` terms",
            own,
            loop,
            reach=reach,
            repeats=args.repeats,
            batch=args.batch_size,
            calls=CALLS,
        )
        if terms == "reference":
            mine, theirs = (torch.tensor(side.notes["gradient"]) for side in (own, loop))
            row.about["difference_of_loss"] = abs(own.notes["loss"] - loop.notes["loss"])
            difference = (mine - theirs).abs().max() / theirs.abs().max()
            row.about["difference_of_gradient"] = float(difference)
        rows.append(row)
        name = f"memory of the loss, `{kind}`, `{terms}`"
        rows.append(compare_memory(name, "the same", own, loop))
        own.close()
    loop.close()
    save("loss", rows, threads=args.threads)


if __name__ == "__main__":
    main()
