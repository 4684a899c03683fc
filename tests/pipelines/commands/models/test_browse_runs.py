"""The table of runs."""

import re
from pathlib import Path

import pytest

from pipelines.commands.models import browse_runs
from pipelines.config.options import StoreOptions
from pipelines.tracking.mlflow_runs import Tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StoreOptions:
    """Three runs, one without scores, and one of another data set."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    for number, (experiment, backbone, metrics) in enumerate(
        [
            ("osie", "lite0", {"best_kl": 0.5, "best_nss": 3.1}),
            ("osie", "lite1", {"best_kl": 0.4, "best_nss": 3.2, "val_kl": 0.9}),
            ("osie", "lite0+lite1", {"scores/mit_kl": 0.3, "scores/tuebingen_ig": 2.0}),
            ("osie", "lite2", {}),
            ("salicon", "lite0", {"best_kl": 0.2}),
        ]
    ):
        tracker = Tracker.open(uri, experiment)
        (folder / str(number)).mkdir()
        tags = {"stage": "encoder", "backbone": backbone, "data": experiment}
        with tracker.run(
            folder / str(number), f"run {number}", params={"lr": "0.1"}, tags=tags
        ) as run:
            tracker.metrics(run, metrics)
    return StoreOptions(tracking_uri=uri)


def names(said: str) -> list[str]:
    return [line.split()[2] for line in said.splitlines()[1:] if "  run " in line]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sort": "kl"}, "42103"),
        ({"sort": "nss", "experiment": "osie"}, "1032"),
        ({"sort": "kl", "where": ("kl<0.45", "data=osie")}, "21"),
        ({"sort": "kl", "where": ("backbone=lite0", "lr=0.1")}, "40"),
        ({"sort": "kl", "where": ("backbone!=lite0",), "num": 2}, "21"),
        ({"sort": "date"}, "43210"),
        ({"sort": "tuebingen_ig", "where": ("stage=encoder", "status=FINISHED"), "num": 1}, "2"),
    ],
)
def test_runs_are_filtered_and_the_best_come_first(
    store: StoreOptions,
    options: dict[str, object],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert browse_runs.list_runs(browse_runs.RunsCommand(tracking=store, **options)) == 0  # type: ignore[arg-type]
    assert names(capsys.readouterr().out) == list(expected)


def test_a_line_shows_run_backbone_and_scores(
    store: StoreOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    browse_runs.list_runs(
        browse_runs.RunsCommand(tracking=store, sort="kl", columns=("kl", "nss"), num=2)
    )
    head, first, second, more = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "name", "data", "stage", "backbone", "date", "kl", "nss"]
    assert first.split()[3:6] == ["salicon", "encoder", "lite0"]
    assert first.split()[-2:] == ["0.200", "-"]
    assert second.split()[-2:] == ["0.300", "-"]
    assert more == "3 more; --num shows them"


def test_a_run_without_an_evaluation_shows_its_best_epochs_scores_and_its_whole_id(
    store: StoreOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    browse_runs.list_runs(
        browse_runs.RunsCommand(tracking=store, sort="kl", columns=("mit_kl",), num=1)
    )
    _, line, _ = capsys.readouterr().out.splitlines()
    assert line.split()[-1] == "0.200"
    assert re.fullmatch("[0-9a-f]{32}", line.split()[0])


def test_no_run_that_fits_is_said(store: StoreOptions, capsys: pytest.CaptureFixture[str]) -> None:
    assert browse_runs.list_runs(browse_runs.RunsCommand(tracking=store, where=("kl<0",))) == 1
    assert capsys.readouterr().out == "none of 5 runs fits\n"


def test_a_wrong_condition_or_experiment_is_an_error(store: StoreOptions) -> None:
    with pytest.raises(ValueError, match="'kl' is no condition"):
        browse_runs.RunsCommand(where=("kl",))
    with pytest.raises(ValueError, match="no experiment 'cat'; there are Default, osie, salicon"):
        browse_runs.list_runs(browse_runs.RunsCommand(tracking=store, experiment="cat"))


def test_a_name_that_no_run_has_is_an_error(store: StoreOptions) -> None:
    for wrong in ({"sort": "foo"}, {"columns": ("kl", "foo")}, {"where": ("foo=3",)}):
        with pytest.raises(ValueError, match=r"no run has 'foo'; there are .*best_kl"):
            browse_runs.list_runs(browse_runs.RunsCommand(tracking=store, **wrong))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'kl<<3' is no condition"):
        browse_runs.RunsCommand(where=("kl<<3",))


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    nowhere = StoreOptions(tracking_uri=f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(ValueError, match="no MLflow store at"):
        browse_runs.ui(browse_runs.UiCommand(tracking=nowhere))
