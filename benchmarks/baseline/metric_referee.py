"""Scores by pysaliency in its own environment; one repetition for each line on standard input.

Prints one JSON line per repetition: seconds, the most memory it took in bytes, and the scores per
image (means over fixations).
Usage: python metric_referee.py NUM_IMAGES NUM_FIXATIONS
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pysaliency
from metric_inputs import make_inputs
from pysaliency.datasets import as_stimulus


def memory(name):
    """Bytes that this process uses (VmRSS), or used at most (VmHWM); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def main():
    num_images, num_fixations = int(sys.argv[1]), int(sys.argv[2])
    maps, baseline, points = make_inputs(num_images, num_fixations)
    random = np.random.RandomState(1)
    shape = (*maps["saliency"].shape[1:], 3)
    stimuli = pysaliency.Stimuli(
        [random.randint(0, 256, size=shape).astype(np.uint8) for _ in range(num_images)]
    )
    # Hashed here, outside the time that is taken.
    order = {stimulus.stimulus_id: image for image, stimulus in enumerate(stimuli)}

    class Maps(pysaliency.SaliencyMapModel):
        def __init__(self, maps):
            super().__init__(caching=False)
            self.maps = maps

        def saliency_map(self, stimulus):
            return self.maps[order[as_stimulus(stimulus).stimulus_id]]

        def _saliency_map(self, stimulus):
            raise NotImplementedError

    class Densities(pysaliency.Model):
        def __init__(self, maps):
            super().__init__(caching=False)
            self.maps = maps

        def log_density(self, stimulus):
            return self.maps[order[as_stimulus(stimulus).stimulus_id]]

        def _log_density(self, stimulus):
            raise NotImplementedError

    fixations = pysaliency.Fixations.create_without_history(
        points[..., 0].ravel(),
        points[..., 1].ravel(),
        np.repeat(np.arange(num_images), num_fixations),
    )
    saliency, density = Maps(maps["saliency"]), Maps(maps["density"])
    model = Densities(maps["log_density"])
    centre = Densities(np.broadcast_to(baseline, maps["saliency"].shape))

    def per_image(values):
        return values.reshape(num_images, num_fixations).mean(axis=1)

    def score():
        return {
            "nss": per_image(saliency.NSSs(stimuli, fixations)),
            "cc": saliency.CCs(stimuli, density),
            "kl": np.array(saliency.image_based_kl_divergences(stimuli, density)),
            "sim": saliency.SIMs(stimuli, density),
            "auc": np.array(saliency.AUC_per_image(stimuli, fixations)),
            "sauc": np.array(saliency.AUC_per_image(stimuli, fixations, nonfixations="shuffled")),
            "ig": per_image(model.information_gains(stimuli, fixations, centre)),
        }

    saliency.AUC_per_image(stimuli[:2], fixations[fixations.n < 2])  # Compiles.
    print("ready", flush=True)
    for _ in sys.stdin:
        before = memory("VmRSS")  # What it keeps of earlier repetitions does not count.
        Path("/proc/self/clear_refs").write_text("5")  # The peak counts anew.
        start = time.perf_counter()
        scores = score()
        seconds = time.perf_counter() - start
        values = {name: value.tolist() for name, value in scores.items()}
        more = memory("VmHWM") - before
        print(json.dumps({"seconds": seconds, "peak": more, "scores": values}), flush=True)


if __name__ == "__main__":
    main()
