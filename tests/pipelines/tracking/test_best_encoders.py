"""The best encoders that an MLflow store holds."""

from pathlib import Path

import pytest

from emlnet.inference.package import MODEL
from pipelines.commands.training import cache_readouts
from pipelines.commands.training.cache_readouts import ReadoutsCommand
from pipelines.tracking.best_encoders import best_encoders, number_of_best, resolve_best
from pipelines.tracking.mlflow_runs import Tracker

DATA = "d" * 64


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Runs of encoders by name, and the store's address as `uri`."""
    folder = tmp_path_factory.mktemp("store")
    (folder / MODEL).write_text("{}")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    found = {"uri": uri}
    for name, experiment, backbone, kl, digest in (
        ("good", "first", "a", 0.4, DATA),
        ("worse", "first", "a", 0.5, DATA),
        ("elsewhere", "first", "a", 0.1, "other"),
        ("second", "another", "b", 0.3, DATA),
        ("without a model", "first", "a", 0.2, DATA),
    ):
        tags = {"stage": "encoder", "backbone": backbone, "data_digest": digest}
        tracker = Tracker.open(uri, experiment)
        (folder / name).mkdir()
        with tracker.run(folder / name, name, params={}, tags=tags) as run_id:
            tracker.log_metrics(run_id, {"best_kl": kl, "best_nss": 1 / kl})
            if name != "without a model":
                tracker.log_file(run_id, folder / MODEL, "package")
        found[name] = run_id
    return found


@pytest.mark.parametrize("metric", ["kl", "nss"])
def test_the_best_run_of_each_backbone_on_this_very_data_is_taken(
    runs: dict[str, str], metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert best_encoders(runs["uri"], DATA, metric) == [runs["second"], runs["good"]]
    assert f"best b: run {runs['second']}, val {metric}" in capsys.readouterr().out


def test_a_store_without_such_encoders_says_which_data_were_looked_for(
    runs: dict[str, str],
) -> None:
    with pytest.raises(ValueError, match="data set with digest 000000000000"):
        best_encoders(runs["uri"], "0" * 64, "kl")


def test_best_becomes_runs_and_other_names_stay(runs: dict[str, str]) -> None:
    uri = runs["uri"]
    both = (runs["second"], runs["good"])
    assert (
        resolve_best(["best"], uri, DATA, "kl") == resolve_best(["best:2"], uri, DATA, "kl") == both
    )
    assert resolve_best(["best", "x"], uri, DATA, "kl") == ("best", "x")
    assert [number_of_best([word]) for word in ("best", "best:3", "x")] == [0, 3, 0]
    with pytest.raises(ValueError, match="best:3 needs 3 backbones, the store has 2"):
        resolve_best(["best:3"], uri, DATA, "kl")


def test_readouts_of_a_choice_by_decoders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="best:3 is chosen by training decoders"):
        cache_readouts.run(ReadoutsCommand(data=(tmp_path,), encoders=("best:3",)))
