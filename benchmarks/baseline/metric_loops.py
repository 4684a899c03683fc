"""The metrics as most repositories have them: numpy, image by image, a loop over thresholds."""

import numpy as np


def nss(saliency, fixated):
    return ((saliency - saliency.mean()) / saliency.std())[fixated].mean()


def cc(saliency, density):
    return np.corrcoef(saliency.ravel(), density.ravel())[0, 1]


def kl(saliency, density):
    p, q = saliency / saliency.sum(), density / density.sum()
    eps = np.finfo(np.float64).eps
    return np.sum(q * np.log(eps + q / (p + eps)))


def sim(saliency, density):
    p = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    q = (density - density.min()) / (density.max() - density.min())
    return np.minimum(p / p.sum(), q / q.sum()).sum()


def auc_judd(saliency, fixated):
    saliency = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    thresholds = np.sort(saliency[fixated])[::-1]
    num_fixated, num_pixels = len(thresholds), saliency.size
    hits, alarms = np.zeros(num_fixated + 2), np.zeros(num_fixated + 2)
    hits[-1] = alarms[-1] = 1
    for index, threshold in enumerate(thresholds, 1):
        above = np.sum(saliency >= threshold)
        hits[index] = index / num_fixated
        alarms[index] = (above - index) / (num_pixels - num_fixated)
    return np.trapezoid(hits, alarms)
