"""Backbones: a table of networks that return feature maps, from several libraries.

A new backbone is one row in `torchvision_rows`, `pretrainedmodels_rows` or `timm_rows`.  Models of
timm need no row: `timm:<name>`.  Imports no other folder.
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
