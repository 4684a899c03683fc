"""The base class of networks that are trained and shipped."""

from __future__ import annotations

from torch import nn

from emlnet.data.maps import Kind


class SaliencyNetwork(nn.Module):
    """A network that returns a map (B, 1, H, W): a log-density, or of kind `eml` values in [0, 1].

    validate_untrained: whether the model is useful before any training, so that training validates
    it first and may keep its initial weights.
    """

    kind: Kind
    validate_untrained: bool = False
