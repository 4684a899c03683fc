"""The paper's own plans run from raw folder to registered model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emlnet.inference import package
from emlnet.models.eml_net import EMLNet
from pipelines.config.options import Tracking
from pipelines.config.presets import PRESETS, find_preset
from pipelines.stages import full


def test_the_papers_plan_is_the_published_one() -> None:
    plan = PRESETS["paper"].plan
    assert (plan.optimizer, plan.lr, plan.weight_decay, plan.batch_size) == ("sgd", 0.01, 1e-4, 8)
    assert (plan.epochs, plan.schedule, plan.step_epochs) == (10, "step", 5)
    assert (plan.backbone_lr, plan.readout_lr, plan.clip_norm) == (1, 1, 0)
    assert plan.terms == "reference"
    assert PRESETS["paper"].size == (480, 640)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("name", "size", "num_parameters"), [("paper", (64, 96), 213), ("paper-nasnet", (64, 64), 87)]
)
def test_a_plan_of_the_paper_runs_from_end_to_end(
    name: str, size: tuple[int, int], num_parameters: int, raw: Path, tmp_path: Path
) -> None:
    preset = find_preset(name)
    command = replace(
        preset,
        data=(raw,),
        size=size,
        weights=("none",),
        plan=replace(preset.plan, epochs=1, batch_size=4),
        decoder_plan=replace(preset.decoder_plan, epochs=1, batch_size=4),
        tracking=Tracking(out=tmp_path / "run", tracking_uri=f"sqlite:///{tmp_path / 'm.db'}"),
    )
    report = full.run(command)
    assert report["version"] == 1
    assert command.tracking.out is not None
    model = package.load(command.tracking.out / "decoder" / "package").model
    assert isinstance(model, EMLNet)
    assert sum(p.numel() for p in model.decoder.parameters()) == num_parameters
    picture = np.zeros((50, 70, 3), np.uint8)
    assert package.Package(model=model).predict(picture).saliency.shape == (50, 70)
