"""Scores of a split: alike however it is shared out, and honest about what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from emlnet.data.maps import density_map
from emlnet.metrics import baselines, saliency_metrics
from pipelines.evaluation import evaluate as evaluation
from pipelines.evaluation import score_table, sources
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.sources import BASELINES, ScoredMap, SplitImage
from pipelines.evaluation.split_fixations import (
    SplitFixations,
    estimate_sigma,
    fit_sigma,
    read_fixations,
)
from pipelines.ray_cluster import tasks
from shards.read.reader import ShardReader


class Constant:
    """A source that answers every image with the same value."""

    def rows(self, split_image: SplitImage) -> list[ScoredMap]:
        flat = torch.full_like(split_image.targets.density, 0.5)
        return [ScoredMap(name="flat", saliency=flat, log_density=None)]


class Broken(Constant):
    """A source whose maps hold a NaN."""

    def rows(self, split_image: SplitImage) -> list[ScoredMap]:
        (row,) = super().rows(split_image)
        row.saliency[0, 0, 0, 0] = float("nan")
        return [row]


@pytest.fixture(scope="module")
def reader(data: Path) -> ShardReader:
    return ShardReader(data, "val")


@pytest.fixture(scope="module")
def scores(reader: ShardReader) -> score_table.ScoreTable:
    """Of the constant map and the baselines, in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tasks, "map_parts", lambda f, parts, *s, **o: [f(p, "cpu", *s) for p in parts]
        )
        return evaluate([Constant()], reader)


def test_each_image_has_a_value_in_each_row(
    scores: score_table.ScoreTable, reader: ShardReader
) -> None:
    assert scores.models == ["flat", *BASELINES]
    for model in scores.models:
        assert list(scores.of(model).index) == list(reader.keys)
    kept = scores.frame[list(score_table.METRICS)].where(scores.frame["model"] != "flat")
    assert np.isfinite(kept.dropna(how="all")).all(axis=None)


@pytest.mark.ray
def test_any_number_of_workers_and_images_a_task_gives_the_same_scores(
    scores: score_table.ScoreTable,
    reader: ShardReader,
    local_ray: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "IMAGES_PER_TASK", 1)
    for num in (1, 2):
        again = evaluate([Constant()], reader, num_workers=num)
        pd.testing.assert_frame_equal(again.frame, scores.frame, rtol=1e-6, atol=1e-6)


def test_baselines_score_what_they_must(scores: score_table.ScoreTable) -> None:
    means = scores.means
    assert means["uniform"]["tuebingen_auc"] == 0.5
    assert means["centre prior"]["tuebingen_ig"] == pytest.approx(0, abs=1e-9)
    assert means["ground-truth map"]["tuebingen_kl"] == pytest.approx(0, abs=1e-6)
    assert means["ground-truth map"]["mit_sim"] == pytest.approx(1)
    order = [means[row]["mit_nss"] for row in ("another image's map", "half of the observers")]
    assert order[0] + 1 < order[1] < means["ground-truth map"]["mit_nss"]


def test_scores_are_those_of_the_metrics(
    scores: score_table.ScoreTable, reader: ShardReader
) -> None:
    targets = sources.prepare_split_image(1, reader.decoded(1), torch.device("cpu")).targets
    prior = baselines.centre_prior(reader.manifest.centre_prior(reader.folder), targets.size)
    others = torch.zeros_like(targets.density)
    for position in (0, 2):
        for x, y in reader.sample(position).points:
            others[0, 0, y, x] += 1
    expected = saliency_metrics.score(
        prior.exp(), targets.fixation_map(), targets.density, nonfixations=others
    )
    found = scores.of("centre prior").iloc[1]
    for name, value in expected.items():
        assert found[f"tuebingen_{name}"] == pytest.approx(value.item(), abs=1e-12)


def test_a_constant_map_has_defined_scores_and_is_said(scores: score_table.ScoreTable) -> None:
    flat = scores.of("flat")
    assert flat["constant"].all()
    assert (flat["tuebingen_auc"] == 0.5).all()
    assert (flat["mit_nss"] == 0).all()
    assert flat["mit_ig"].notna().all()
    assert "tuebingen_ig" not in scores.estimates["flat"]  # It claims no density.
    assert any(note.startswith("3 maps of flat are constant") for note in scores.about["notes"])


def test_a_density_may_answer_each_metric_with_the_map_that_is_best_for_it(
    scores: score_table.ScoreTable, reader: ShardReader, in_process: None
) -> None:
    best = evaluate([], reader, best_maps=True).means["centre prior"]
    plain = scores.means["centre prior"]
    # Log p less log baseline is constant for the baseline itself.
    assert best["tuebingen_sauc"] == 0.5 != plain["tuebingen_sauc"]
    assert best["tuebingen_sim"] > plain["tuebingen_sim"]
    assert best["tuebingen_ig"] == pytest.approx(plain["tuebingen_ig"])
    assert best["mit_sim"] == plain["mit_sim"]


def test_a_map_with_nan_is_refused_with_image_and_row(
    reader: ShardReader, in_process: None
) -> None:
    with pytest.raises(
        ValueError, match=r"val/\w+: the map of flat has values that are not finite"
    ):
        evaluate([Broken()], reader)


def test_an_image_without_fixations_is_counted_and_left_out_where_they_are_needed(
    reader: ShardReader, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, sample = reader.decoded, reader.sample

    def without(whole: Any, position: int) -> Any:
        if position != 1:
            return whole
        return replace(whole, points=whole.points[:0], observers=whole.observers[:0])

    monkeypatch.setattr(reader, "decoded", lambda position: without(decoded(position), position))
    monkeypatch.setattr(reader, "sample", lambda position: without(sample(position), position))
    found = evaluate([Constant()], reader)
    estimates = found.estimates["centre prior"]
    assert (estimates["tuebingen_nss"].num, estimates["tuebingen_cc"].num) == (2, 3)
    assert found.about["notes"][0].startswith("1 of 3 images have no fixations (first: val/")


def test_constant_density_maps_tell_no_sigma(
    reader: ShardReader, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = reader.decoded

    def flat(position: int) -> Any:
        whole = decoded(position)
        return replace(whole, density=np.full_like(whole.density, 7))

    found = read_fixations(reader, 1)
    assert estimate_sigma(reader, found) > 0
    monkeypatch.setattr(reader, "decoded", flat)
    with pytest.raises(ValueError, match=r"split 'val' are constant: .* give --sigma"):
        estimate_sigma(reader, found)


def test_fixations_of_other_images_are_scaled_and_cut_to_pixels() -> None:
    points = [np.array([[3, 1], [7, 5]], np.int32), np.array([[0, 0]], np.int32)]
    gaze = SplitFixations(points=points, sizes=np.array([[6, 8], [12, 24]]))
    # 3 * 3 = 9, 1 * 2 = 2; 7 * 3 = 21, 5 * 2 = 10.
    assert np.argwhere(gaze.of_others(1)).tolist() == [[2, 9], [10, 21]]
    assert np.argwhere(gaze.of_others(0)).tolist() == [[0, 0]]


def test_a_table_survives_parquet(scores: score_table.ScoreTable, tmp_path: Path) -> None:
    scores.save(tmp_path)
    again = score_table.read_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(again.frame, scores.frame)
    assert again.about == scores.about
    (tmp_path / "other.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="holds no scores"):
        score_table.read_parquet(tmp_path / "other.parquet")


@pytest.mark.parametrize("sigma", [3, 7.5, 19])
def test_the_sigma_of_a_blur_is_found_again(sigma: float) -> None:
    random = np.random.RandomState(0)
    counts = torch.zeros(1, 1, 120, 160)
    np.add.at(counts.numpy()[0, 0], (random.randint(0, 120, 150), random.randint(0, 160, 150)), 1)
    density = (density_map(counts, sigma) * 1e5).round()
    assert fit_sigma(counts, density) == pytest.approx(sigma, rel=0.02)
