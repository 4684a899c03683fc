"""Both sides of the race to an NSS, on a few synthetic pictures."""

from __future__ import annotations

import pytest

from benchmarks import time_to_nss
from shards.build.writer import build
from shards.synthetic import write_sample


@pytest.mark.slow
@pytest.mark.parametrize("side", [time_to_nss.ours, time_to_nss.baseline])
def test_a_side_trains_until_its_time_is_over(tmp_path, side):
    write_sample(tmp_path / "raw", num_images=5, progress=False)
    build(tmp_path / "raw", tmp_path / "shards", progress=False)
    paths = {"folder": str(tmp_path / "raw"), "data": str(tmp_path / "shards")}
    run = side(**paths, size=(64, 96), target=100.0, longest=0.0, seed=0, epochs=3)
    answer = run()
    assert len(answer["history"]) == 1
    assert answer["history"][0][0] == pytest.approx(answer["seconds"], abs=0.1)
    assert answer["seconds"] > 0


def test_training_stops_at_the_target():
    scores = iter([1.0, 2.0, 3.0, 4.0])
    answer = time_to_nss.until(2.5, lambda epoch: True, lambda: next(scores), longest=1e9)
    assert [score for _, score in answer["history"]] == [1, 2, 3]


def test_training_stops_when_the_plan_is_done():
    answer = time_to_nss.until(9, lambda epoch: epoch < 2, lambda: 1.0, longest=1e9)
    assert len(answer["history"]) == 2
