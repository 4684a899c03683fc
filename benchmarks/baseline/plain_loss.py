"""The loss as EML-NET's authors describe it, written image by image: the usual way to have it.

KL with 1e-6 within, 1 - CC, and the normalised scanpath saliency that the fixation map itself has
less the prediction's, with unbiased standard deviations; the mean of their sum over a batch.
"""

import torch

EPS = 1e-6


def kl(prediction, density):
    p, q = prediction / prediction.sum(), density / density.sum()
    return (q * torch.log(q / (p + EPS) + EPS)).sum()


def cc(prediction, density):
    p = (prediction - prediction.mean()) / prediction.std()
    q = (density - density.mean()) / density.std()
    return (p * q).sum() / torch.sqrt((p * p).sum() * (q * q).sum())


def nss(prediction, fixation):
    p = (prediction - prediction.mean()) / prediction.std()
    f = (fixation - fixation.mean()) / fixation.std()
    return (f * fixation - p * fixation).sum() / fixation.sum()


def loss(prediction, density, fixation):
    """All (B, 1, H, W); fixation: 0 or 1.  The mean over the batch, and each term by name."""
    terms = {"kl": [], "cc": [], "nss": []}
    total = 0
    for p, q, f in zip(prediction, density, fixation, strict=True):
        parts = {"kl": kl(p, q), "cc": 1 - cc(p, q), "nss": nss(p, f)}
        total = total + sum(parts.values())
        for name, value in parts.items():
            terms[name].append(value)
    return total / len(prediction), {name: torch.stack(values) for name, values in terms.items()}
