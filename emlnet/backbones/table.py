"""The table of backbones by name."""

from __future__ import annotations

from emlnet.backbones import pretrainedmodels_rows, timm_rows, torchvision_rows
from emlnet.backbones.feature_extractor import TinyFeatureExtractor
from emlnet.backbones.row import Backbone

TINY = Backbone(name="tiny", build=TinyFeatureExtractor, channels=(8, 8), reductions=(2, 4))

BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        *timm_rows.ROWS,
        *torchvision_rows.ROWS,
        *pretrainedmodels_rows.ROWS,
        TINY,
    )
}


def find_backbone(name: str) -> Backbone:
    """Find a backbone by name or `timm:<name>`; ValueError listing the known names."""
    if name.startswith(timm_rows.PREFIX):
        return timm_rows.timm_row(name)
    if name not in BACKBONES:
        raise ValueError(
            f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}, and timm:<name> for any "
            "model of timm that returns feature maps"
        )
    return BACKBONES[name]
