"""On real photographs: the folder that EMLNET_OSIE names, by default ../shared/data/osie."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from shards.inspect.verify import verify
from shards.read.loader import Loader
from shards.read.reader import ShardReader
from tests.shards.conftest import pack

ROOT = Path(__file__).parents[3]
OSIE = Path(os.environ.get("EMLNET_OSIE", ROOT.parent / "shared/data/osie"))
needs_osie = pytest.mark.skipif(
    not OSIE.is_dir(), reason=f"no OSIE photographs at {OSIE}; set EMLNET_OSIE to their folder"
)
pytestmark = needs_osie


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("osie") / "packed"
    pack(OSIE, folder)
    return folder


def test_every_photograph_and_fixation_is_packed_and_verifies(packed):
    manifest = verify(packed, full=True)
    nums = {name: len(split.samples) for name, split in manifest.splits.items()}
    assert nums == {"train": 500, "val": 100}
    assert (manifest.dropped.points_outside, manifest.dropped.empty_observers) == (0, 0)
    reader = ShardReader(packed, "val")
    total = sum(batch.counts.sum().item() for batch in Loader(reader, 10).epoch(0))
    assert total == sum(entry.num_fixations for entry in reader.entries)
    prior = manifest.centre_prior(packed)
    assert prior.shape == (480, 640)
    assert np.abs(np.unravel_index(prior.argmax(), prior.shape) - np.array([240, 320])).max() < 80


def test_the_first_photograph_matches_its_mat(packed):
    sample = ShardReader(packed, "train").sample(0)
    stem = sample.key.removeprefix("train/")
    gaze = scipy.io.loadmat(OSIE / f"fixations/train/{stem}.mat")["gaze"].ravel()
    expected = np.concatenate([observer["fixations"] for observer in gaze]).astype(int) - 1
    np.testing.assert_array_equal(sample.points, expected)
    assert sample.observers.max() == 14
    assert sample.image == (OSIE / f"images/train/{stem}.jpg").read_bytes()
    density = np.asarray(Image.open(OSIE / f"maps/train/{stem}.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample.density))), density)
