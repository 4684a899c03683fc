"""The table of runs."""

import re
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.commands.models import list_runs
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
            tracker.log_metrics(run, metrics)
    return StoreOptions(tracking_uri=uri)


def runs(store: StoreOptions, **options: object) -> int:
    return list_runs.run(list_runs.RunsCommand(tracking=store, **options))  # type: ignore[arg-type]


KL = "metrics.best_kl ASC"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"order_by": (KL,)}, "410"),
        ({"order_by": ("metrics.best_nss DESC",), "experiment": "osie"}, "10"),
        ({"order_by": (KL,), "filter": "metrics.best_kl < 0.45 and tags.data = 'osie'"}, "1"),
        ({"order_by": (KL,), "filter": "tags.backbone = 'lite0' and params.lr = '0.1'"}, "40"),
        ({"order_by": (KL,), "filter": "tags.backbone != 'lite0'", "num": 1}, "1"),
        ({"order_by": ("attributes.start_time DESC",)}, "43210"),
        ({"filter": "metrics.`scores/mit_kl` < 0.4 and attributes.status = 'FINISHED'"}, "2"),
        ({"num": 1}, "2"),
    ],
)
def test_runs_are_filtered_and_ordered_as_mlflow_does(
    store: StoreOptions,
    options: dict[str, object],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert runs(store, **options) == 0
    found = re.findall(r"^ *[0-9a-f]{32} +run (\d) ", capsys.readouterr().out, re.M)
    assert found[: len(expected)] == list(expected)
    assert len(found) == options.get("num", len(found))


def test_a_line_shows_run_backbone_and_scores(
    store: StoreOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    runs(store, order_by=(KL,), columns=("mit_kl", "best_nss", "scores/tuebingen_ig"), num=3)
    head, first, second, _, more, _ = capsys.readouterr().out.splitlines()
    assert head.split()[:6] == ["run", "name", "status", "data", "stage", "backbone"]
    assert head.split()[-3:] == ["mit_kl", "best_nss", "scores/tuebingen_ig"]
    assert first.split()[3:7] == ["finished", "salicon", "encoder", "lite0"]
    assert first.split()[-3:] == ["0.200", "-", "-"]
    assert second.split()[-3:] == ["0.400", "3.200", "-"]
    assert more == "there are more; --num shows them"


def test_no_run_that_fits_is_said(store: StoreOptions, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs(store, filter="metrics.best_kl < 0") == 1
    assert capsys.readouterr().out == "no run matches the filter\n"


def test_an_unknown_experiment_or_metric_is_an_error(store: StoreOptions) -> None:
    with pytest.raises(ValueError, match="unknown experiment 'cat'; known: Default, osie, salicon"):
        runs(store, experiment="cat")
    with pytest.raises(ValueError, match=r"unknown metric 'foo'; known: .*best_kl"):
        runs(store, columns=("mit_kl", "foo"))


def test_a_wrong_filter_and_a_store_that_is_not_there_are_one_line(
    store: StoreOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "--filter", "best_kl <", "--tracking-uri", store.uri]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["runs", "--tracking-uri", f"sqlite:///{tmp_path / 'none.db'}"]) == 1
    assert "error: no MLflow store at" in capsys.readouterr().err
