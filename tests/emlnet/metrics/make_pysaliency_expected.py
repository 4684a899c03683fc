"""Writes tests/data/pysaliency.npz: scores by pysaliency 0.2.22, which `tuebingen` must equal.

pysaliency needs an environment of its own (Python 3.11; setuptools after torch, which replaces it):

    python -m venv referee
    referee/bin/pip install torch "numpy<2.4" pandas
    referee/bin/pip install "setuptools<81" wheel cython
    referee/bin/pip install --no-build-isolation pysaliency==0.2.22
    export EMLNET_OSIE=../shared/data/osie
    referee/bin/python -m tests.emlnet.metrics.make_pysaliency_expected

Tests read `cases` from here (numpy alone) and the expected values from the file.  Only the real
maps are stored with them: every second pixel of four OSIE validation pictures (see the licence
in that data set: MIT, NUS VIP).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

EXPECTED = Path(__file__).parents[2] / "data" / "pysaliency.npz"
SIZE = (60, 80)
NUM_IMAGES = 4


def _counts(points, size):
    """Count maps (B, 1, H, W) of points, a list of (N, 2) (x, y)."""
    maps = np.zeros((len(points), 1, *size))
    for image, xy in enumerate(points):
        np.add.at(maps[image, 0], (xy[:, 1], xy[:, 0]), 1)
    return maps


def _case(saliency, density, points):
    """All inputs of a case, as arrays (B, 1, H, W); log-densities are made from the maps."""
    size = saliency.shape[-2:]
    lifted = saliency - saliency.min(axis=(1, 2), keepdims=True) + 1e-3
    log_density = np.log(lifted / lifted.sum(axis=(1, 2), keepdims=True))
    y, x = np.mgrid[: size[0], : size[1]]
    centre = -(((x / size[1] - 0.5) / 0.3) ** 2 + ((y / size[0] - 0.5) / 0.3) ** 2) / 2
    baseline = np.broadcast_to(centre - np.log(np.exp(centre).sum()), saliency.shape)
    fixations = _counts(points, size)
    return {
        "saliency": saliency[:, None],
        "density": density[:, None],
        "log_density": log_density[:, None],
        "baseline_log_density": baseline[:, None].copy(),
        "fixations": fixations,
        "nonfixations": fixations.sum(axis=0, keepdims=True) - fixations,
    }


def cases(maps, points, owner):
    """Inputs by name.  maps: (4, h, w) uint8 and points: (P, 2) with owner: (P,), the real ones."""
    random = np.random.RandomState(0)
    shape = (NUM_IMAGES, *SIZE)

    def looks(num=40):
        xy = random.randint(0, SIZE[0] * SIZE[1], size=(NUM_IMAGES, num))
        xy[:, -5:] = xy[:, :1]  # Repeats: every fixation counts.
        return [np.stack([row % SIZE[1], row // SIZE[1]], axis=1) for row in xy]

    one_hot, other_one_hot = np.zeros(shape), np.zeros(shape)
    one_hot[:, 10, 20] = other_one_hot[:, 11, 20] = 1
    other_one_hot[0] = one_hot[0]
    constant = np.broadcast_to(np.array([0.5, 0, 1, 3])[:, None, None], shape).copy()
    real = maps.astype(float)
    real_saliency = 0.5 * real + 0.5 * np.roll(real, 1, axis=0)
    real_points = [points[owner == image].astype(int) for image in range(NUM_IMAGES)]
    hit = [np.array([[20, 10], [20, 10], [0, 0]])] * NUM_IMAGES
    return {
        "random": _case(random.rand(*shape), random.rand(*shape), looks()),
        "negative": _case(random.randn(*shape), random.randn(*shape), looks()),
        "tied": _case(
            random.randint(0, 256, size=shape) // 32 * 32.0,
            random.randint(0, 256, size=shape) * 1.0,
            looks(),
        ),
        "peaked": _case(random.rand(*shape) ** 40 * 1e-6, random.rand(*shape) ** 8, looks(300)),
        "constant": _case(constant, random.rand(*shape), looks()),
        "one_hot": _case(one_hot, other_one_hot, hit),
        "real": _case(real_saliency, real, real_points),
        "real_8bit": _case(np.floor(real_saliency), real, real_points),
    }


def stored():
    """(inputs of `cases`, expected scores by `case/metric`) from the file."""
    with np.load(EXPECTED) as file:
        arrays = dict(file)
    real = {name: arrays.pop(name) for name in ("maps", "points", "owner")}
    return real, arrays


def _read_osie(folder):
    from PIL import Image
    from scipy.io import loadmat

    stems = sorted(path.stem for path in (folder / "maps/val").glob("*.png"))[:NUM_IMAGES]
    maps, points, owner = [], [], []
    for image, stem in enumerate(stems):
        maps.append(np.asarray(Image.open(folder / "maps/val" / f"{stem}.png"))[::2, ::2])
        gaze = loadmat(folder / "fixations/val" / f"{stem}.mat")["gaze"].ravel()
        xy = np.concatenate([row["fixations"].reshape(-1, 2) for row in gaze]).astype(int)
        points.append(((xy - 1) // 2).astype(np.uint16))
        owner.append(np.full(len(xy), image, np.uint8))
    return {
        "maps": np.stack(maps),
        "points": np.concatenate(points),
        "owner": np.concatenate(owner),
    }


def referee(case):
    """Scores of a case by pysaliency, (B,) each."""
    import pysaliency

    from benchmarks.baseline.pysaliency_scores import Densities, Maps, make_stimuli

    num, _, *size = case["saliency"].shape
    stimuli, order = make_stimuli(num, size)

    def looks(counts):
        image, _, y, x = np.nonzero(counts)
        times = counts[image, 0, y, x].astype(int)
        columns = [np.repeat(column, times) for column in (x, y, image)]
        return pysaliency.Fixations.create_without_history(*columns)

    def per_image(values):
        return np.array([np.mean(values[fixations.n == image]) for image in range(num)])

    fixations = looks(case["fixations"])
    unique = looks((case["fixations"] > 0).astype(int))
    maps = {name: values[:, 0] for name, values in case.items()}
    saliency, density = (Maps(maps[name], order) for name in ("saliency", "density"))
    model, baseline = (
        Densities(maps[name], order) for name in ("log_density", "baseline_log_density")
    )
    eps = np.finfo(np.float64).eps  # As in MATLAB; pysaliency's own MIT_KLDiv rounds it.
    return {
        "nss": per_image(saliency.NSSs(stimuli, fixations)),
        "cc": saliency.CCs(stimuli, density),
        "kl": saliency.image_based_kl_divergences(stimuli, density),
        "sim": saliency.SIMs(stimuli, density),
        "auc": saliency.AUC_per_image(stimuli, fixations),
        "sauc": saliency.AUC_per_image(stimuli, fixations, nonfixations="shuffled"),
        "ig": per_image(model.information_gains(stimuli, fixations, baseline)),
        "mit_kl": saliency.image_based_kl_divergences(
            stimuli,
            density,
            minimum_value=0,
            log_regularization=eps,
            quotient_regularization=eps,
        ),
        "mit_auc_judd": saliency.AUC_per_image(
            stimuli, unique, nonfixations="unfixated", thresholds="fixations"
        ),
    }


def main():
    real = _read_osie(Path(os.environ.get("EMLNET_OSIE", "../shared/data/osie")))
    scores = {
        f"{name}/{metric}": np.asarray(values, np.float64)
        for name, case in cases(**real).items()
        for metric, values in referee(case).items()
    }
    np.savez_compressed(EXPECTED, **real, **scores)
    print(f"{len(scores)} rows of scores, {EXPECTED.stat().st_size} bytes in {EXPECTED}")


if __name__ == "__main__":
    main()
