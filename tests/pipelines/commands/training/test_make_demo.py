"""`make demo` in small."""

from pathlib import Path

import numpy as np
import pytest
import ray

import emlnet
from emlnet.data.images import read_picture
from pipelines.commands.training.make_demo import DemoCommand, run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_demo_ends_with_scores_and_an_overlay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(DemoCommand(folder=tmp_path / "demo", num_images=20))
    ray.shutdown()
    printed = capsys.readouterr().out
    for row in ("decoder", "encoder efficientnet_lite0", "encoder efficientnet_lite1"):
        assert f"\n{row} " in printed
    (overlay,) = (tmp_path / "demo").glob("*_overlay.png")
    assert str(overlay) in printed
    assert read_picture(overlay).shape == (480, 1280, 3)
    saliency = emlnet.load(tmp_path / "demo" / "champion").predict(overlay).saliency
    assert saliency.sum() == pytest.approx(1, abs=1e-3)
    assert np.isfinite(saliency).all()
