"""All metrics by pysaliency, as a side of `benchmarks.metrics`, in an environment of its own."""

from __future__ import annotations

import numpy as np
import pysaliency
from pysaliency.datasets import as_stimulus

from benchmarks.baseline.metric_inputs import make_inputs


class Maps(pysaliency.SaliencyMapModel):
    """Saliency maps (B, H, W) of stimuli."""

    def __init__(self, maps, order):
        super().__init__(caching=False)
        self.maps, self.order = maps, order

    def saliency_map(self, stimulus):
        return self.maps[self.order[as_stimulus(stimulus).stimulus_id]]

    def _saliency_map(self, stimulus):
        raise NotImplementedError


class Densities(pysaliency.Model):
    """Log-densities (B, H, W) of stimuli."""

    def __init__(self, maps, order):
        super().__init__(caching=False)
        self.maps, self.order = maps, order

    def log_density(self, stimulus):
        return self.maps[self.order[as_stimulus(stimulus).stimulus_id]]

    def _log_density(self, stimulus):
        raise NotImplementedError


def make_stimuli(num_images, size):
    """Pictures of noise, and the position of each by its hash."""
    random = np.random.RandomState(1)
    pictures = random.randint(0, 256, size=(num_images, *size, 3)).astype(np.uint8)
    stimuli = pysaliency.Stimuli(list(pictures))
    return stimuli, {stimulus.stimulus_id: image for image, stimulus in enumerate(stimuli)}


def baseline(num_images, num_fixations):
    """Return a function that scores all images: means over the fixations of each, by metric."""
    maps, centre, points = make_inputs(num_images, num_fixations)
    stimuli, order = make_stimuli(num_images, maps["saliency"].shape[1:])
    fixations = pysaliency.Fixations.create_without_history(
        points[..., 0].ravel(),
        points[..., 1].ravel(),
        np.repeat(np.arange(num_images), num_fixations),
    )
    saliency, density = Maps(maps["saliency"], order), Maps(maps["density"], order)
    model = Densities(maps["log_density"], order)
    prior = Densities(np.broadcast_to(centre, maps["saliency"].shape), order)

    def per_image(values):
        return values.reshape(num_images, num_fixations).mean(axis=1)

    def repeat():
        scores = {
            "nss": per_image(saliency.NSSs(stimuli, fixations)),
            "cc": saliency.CCs(stimuli, density),
            "kl": saliency.image_based_kl_divergences(stimuli, density),
            "sim": saliency.SIMs(stimuli, density),
            "auc": saliency.AUC_per_image(stimuli, fixations),
            "sauc": saliency.AUC_per_image(stimuli, fixations, nonfixations="shuffled"),
            "ig": per_image(model.information_gains(stimuli, fixations, prior)),
        }
        return {name: np.asarray(values).tolist() for name, values in scores.items()}

    return repeat
