"""Made-up records of trials, and a small synthetic data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emlnet.losses.weighted import LossWeights
from emlnet.training.state import Plan
from pipelines.config.options import Compute
from pipelines.stages.run_context import RunContext
from pipelines.tracking.mlflow_runs import Tracker
from shards.build.writer import build
from shards.files.manifest import Manifest
from shards.synthetic import write_sample
from tests.tune.made_up import TINY, make_report
from tune.records import TrialRecord
from tune.search_config import LossWeightsCommand, Search
from tune.space import Space
from tune.trial import EncoderTrialJob, OpenSearch

MakeRecord = Callable[..., TrialRecord]
PLAN = Plan(epochs=3, batch_size=4, lr=1e-3)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty synthetic pictures as shards."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "raw", num_images=20, seed=3, progress=False)
    build(folder / "raw", folder / "shards", progress=False)
    return folder / "shards"


@pytest.fixture
def search(data: Path, tmp_path: Path) -> OpenSearch:
    """A search for a tiny encoder, without an MLflow store: trials of an epoch at half the size."""
    options = Search(trial_epochs=1, trial_scale=0.5)
    command = LossWeightsCommand(data=data, search=options, encoder=TINY, plan=PLAN, seed=4)
    job = EncoderTrialJob(
        title="tiny", data=(data,), encoder=TINY, plan=PLAN, seed=4, compute=Compute()
    )
    context = RunContext(
        folder=tmp_path / "search",
        data=job.data,
        manifest=Manifest.load(data),
        tracker=Tracker(uri="", experiment_id=""),
        compute=Compute(),
        parent="abc",
    )
    return OpenSearch(command=command, context=context, job=job, at_once=2)


@pytest.fixture
def make_record() -> MakeRecord:
    """A record by its number: 0 is 1:1:1, the others weigh KL more."""

    def make(number: int, ig: float, **changes: Any) -> TrialRecord:
        space = Space(min_share=0)
        point = space.point(LossWeights(kl=number + 1, cc=1, nss=1))
        report = make_report(1, ig, **changes.pop("scores", {}))
        fields: dict[str, Any] = {
            "point": point,
            "seed": 0,
            "weights": space.weights(point),
            "history": [report],
            "epoch": 1,
            "scores": report["scores"],
        }
        return TrialRecord(**{**fields, **changes})

    return make
