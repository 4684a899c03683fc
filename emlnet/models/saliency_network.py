"""The base class of networks that are trained and shipped."""

from __future__ import annotations

from torch import nn

from emlnet.data.maps import Kind


class SaliencyNetwork(nn.Module):
    """A network that returns a log-density (B, 1, H, W), or a map in [0, 1] for kind `eml`.

    validate_untrained: whether training validates the model first and may keep its initial weights.
    """

    kind: Kind
    validate_untrained: bool = False
