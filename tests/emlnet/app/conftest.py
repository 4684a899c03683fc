from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from emlnet.inference import package


@pytest.fixture
def models(make_encoder, tmp_path):
    """Folders of two packaged models."""
    return [
        package.save(tmp_path / name, make_encoder(seed=seed), {"name": name})
        for seed, name in enumerate(("one", "two"))
    ]


@pytest.fixture
def photo(tmp_path):
    """A small photograph."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).resize((160, 120)).save(path)
    return path
