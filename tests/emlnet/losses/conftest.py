from __future__ import annotations

import pytest

from tests.emlnet.losses.loss_inputs import make_targets, noise


@pytest.fixture
def targets():
    return make_targets(noise(1))
