"""Training losses: one value per image and term, and their weighted sum.

Imports `emlnet.data`.

    from emlnet.losses import LossWeights, saliency_loss
    loss, terms = saliency_loss(model(image), targets, LossWeights(kl=10, cc=2, nss=1))
    loss.mean().backward()
"""

from emlnet.losses.terms import TERMS, LossTerm
from emlnet.losses.weighted import TOTAL, LossWeights, Terms, saliency_loss

__all__ = ["TERMS", "TOTAL", "LossTerm", "LossWeights", "Terms", "saliency_loss"]
