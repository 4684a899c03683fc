"""Backbones: a table of networks that give feature maps, whatever library they come from.

A new backbone is one row: in `torchvision_rows`, `pretrainedmodels_rows`, `timm_rows`, or no row at
all for what timm has (`timm:<name>`).
"""

from emlnet.backbones.row import Backbone
from emlnet.backbones.table import BACKBONES, find_backbone
from emlnet.backbones.weights import build_backbone, check_keys, read_state_dict

__all__ = [
    "BACKBONES",
    "Backbone",
    "build_backbone",
    "check_keys",
    "find_backbone",
    "read_state_dict",
]
