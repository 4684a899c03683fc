"""Photograph-sized maps and fixations from a seed, alike in every environment (only numpy)."""

import numpy as np

SIZE = (480, 640)


def _stretch(length, knots):
    """(length, knots) matrix of linear interpolation between equally spaced knots."""
    place = np.linspace(0, knots - 1, length)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(knots)))


def make_inputs(num_images, num_fixations, seed=0):
    """Maps (B, H, W) float32 by name, and `points`: (B, num_fixations, 2) int (x, y)."""
    random = np.random.RandomState(seed)
    height, width = SIZE
    rows, columns = _stretch(height, 30), _stretch(width, 40)
    y, x = np.mgrid[:height, :width]
    centre = -(((x / width - 0.5) / 0.25) ** 2 + ((y / height - 0.5) / 0.25) ** 2) / 2
    shape = (num_images, height, width)
    maps = {name: np.empty(shape, np.float32) for name in ("log_density", "saliency", "density")}
    points = np.empty((num_images, num_fixations, 2), int)
    for image in range(num_images):
        shared = random.randn(30, 40)
        noise = [2 * shared + random.randn(30, 40) for _ in range(2)]
        logits = [rows @ knots @ columns.T + centre for knots in noise]
        logs = [logit - np.log(np.exp(logit).sum()) for logit in logits]
        maps["log_density"][image] = logs[0]
        maps["saliency"][image] = np.exp(logs[0])
        maps["density"][image] = np.exp(logs[1])
        chance = np.cumsum(np.exp(logs[1]))
        spots = np.searchsorted(chance, random.rand(num_fixations) * chance[-1])
        points[image] = np.stack([spots % width, spots // width], axis=1)
    baseline = (centre - np.log(np.exp(centre).sum())).astype(np.float32)
    return maps, baseline, points
