"""Records of trials, made up, and a small synthetic data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emlnet.losses.weighted import LossWeights
from shards.build.writer import build
from shards.layouts.synthetic import write_sample
from tune.results import Spec, TrialRecord
from tune.space import Space

MakeRecord = Callable[..., TrialRecord]


def scores_of(ig: float, **more: float) -> dict[str, float]:
    """Scores that go with an information gain."""
    made = {"ig": ig, "nss": 2 + ig, "cc": 0.5, "kl": 1 - ig / 2, "sim": 0.5, "auc": 0.8}
    return {**made, **more}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen synthetic pictures as shards."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "raw", num_images=15, seed=3, progress=False)
    build(folder / "raw", folder / "shards", progress=False)
    return folder / "shards"


@pytest.fixture
def make_record() -> MakeRecord:
    """A record by its number: that of 1:1:1 is 0; each later one has more KL."""

    def make(number: int, ig: float, *, epochs: int = 1, **changes: Any) -> TrialRecord:
        weights = LossWeights(kl=number + 1, cc=1, nss=1)
        space = Space(min_share=0)
        scores = scores_of(ig, **changes.pop("scores", {}))
        record = TrialRecord(
            spec=Spec(
                point=space.point(weights),
                seed=changes.pop("seed", 0),
                final=changes.pop("final", False),
            ),
            weights=space.weights(space.point(weights)),
            num_epochs=epochs,
            state="finished",
            history=[
                {"epoch": e, "train_loss": {}, "scores": scores, "seconds": 1.0, "best": True}
                for e in range(1, epochs + 1)
            ],
            epoch=epochs,
            scores=scores,
            started=float(number),
            seconds=1.0,
        )
        return TrialRecord(**{**vars(record), **changes})

    return make
