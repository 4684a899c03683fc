"""Trials of an encoder and of the decoder, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from emlnet.inference import package
from emlnet.losses.weighted import LossWeights
from emlnet.models.decoder import DecoderConfig
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.finetune import Finetune
from emlnet.training.state import Plan
from emlnet.training.validation import evaluate
from pipelines.ray_cluster import tasks
from pipelines.stages.encoder_stage import EncoderJob
from pipelines.stages.frozen_encoders import build_cache, open_encoders
from shards.files.manifest import Manifest
from shards.read.loader import ErrorPolicy
from shards.read.reader import ShardReader
from tests.tune.made_up import TINY, searching
from tune import trial
from tune.objective import halves
from tune.space import BASELINE_WEIGHTS, Space
from tune.trial import (
    EPOCH,
    REPORT,
    DecoderTrialJob,
    EncoderTrialJob,
    OpenSearch,
    root_error_line,
    run_trial,
    trial_size,
)

CPU = torch.device("cpu")
KL_AND_NSS = LossWeights(kl=2, cc=0, nss=1)


def make_job(search: OpenSearch, final: bool, weights: LossWeights = KL_AND_NSS) -> Any:
    config: dict[str, Any] = {"point": search.command.search.space.point(weights)}
    return search.make_job({"final": {**config, "seed": 7}} if final else config)


def test_a_trial_of_an_encoder_is_short_and_small_and_a_final_run_is_in_full(search, data):
    search = searching(search, space=Space(also=("lr", "width")))
    point = {**search.command.search.space.point(KL_AND_NSS), "lr": 2.0, "width": 0.5}
    job = search.make_job({"point": point})
    assert (job.plan.epochs, job.plan.lr, job.plan.loss_weights) == (1, 0.002, KL_AND_NSS)
    assert (job.encoder.size, job.encoder.readout_width, job.seed) == ((48, 64), 16, 4)
    assert job.plan.select == "ig"
    whole = ShardReader(data, "train").decoded(0)
    assert job.reader("train").decoded(0).image.shape[0] == whole.image.shape[0] // 2
    final = search.make_job({"final": {"point": point, "seed": 7}})
    assert (final.plan.epochs, final.encoder.size, final.scale, final.seed) == (3, (96, 128), 1, 7)
    assert final.plan.loss_weights == KL_AND_NSS


@pytest.mark.parametrize(
    ("backbone", "size", "small"),
    [
        ("tiny", (360, 480), (176, 240)),
        ("tiny", (48, 64), (32, 32)),
        ("timm:vit_small_patch14_dinov2.lvd142m", (476, 644), (238, 322)),
        ("timm:mixer_b16_224", (224, 224), (224, 224)),
    ],
)
def test_a_trial_is_of_a_size_that_the_backbone_accepts(backbone, size, small):
    config = EncoderConfig(backbone=backbone, weights="none", size=size)
    assert trial_size(config, 0.5) == small
    assert replace(config, size=small).size == small
    assert trial_size(config, 1) == size


def test_a_trial_starts_from_a_packaged_encoder_and_finetunes_as_asked(search, tmp_path):
    packaged = Encoder(TINY).eval()
    package.save(tmp_path / "package", packaged, {})
    errors = ErrorPolicy(on_error="skip", max_skipped=0.5)
    job = replace(
        search.job,
        encoder=replace(TINY, weights=str(tmp_path / "package")),
        finetune=Finetune(freeze=1),
        errors=errors,
    )
    job = make_job(replace(search, job=job), final=True)
    built = job.build()
    for name, value in built.state_dict().items():
        assert torch.equal(value, packaged.state_dict()[name]), name
    assert not all(weight.requires_grad for weight in built.parameters())
    source = job.source(0, 1, CPU)
    assert source._train.errors == source.held_out._val.errors == errors


def test_a_trial_never_sees_the_half_of_val_that_is_reported(search, data):
    val = ShardReader(data, "val")
    tuned, held_out = halves(len(val))
    trial_job, final_job = (make_job(search, final) for final in (False, True))
    assert trial_job.reader("val").keys == tuple(val.keys[p] for p in tuned)
    assert trial_job.source(0, 1, CPU).held_out is None
    held_out_source = final_job.source(0, 1, CPU).held_out
    assert held_out_source.job.reader("val").keys == tuple(val.keys[p] for p in held_out)


def mean_of_halves(scores: dict[str, float], metric: str, num_val: int) -> float:
    counts = [len(half) for half in halves(num_val)]
    parts = [scores[metric], scores[f"held_out_{metric}"]]
    return sum(p * c for p, c in zip(parts, counts, strict=True)) / num_val


def test_both_halves_of_val_together_score_as_val_does(search, data):
    job: EncoderTrialJob = make_job(search, final=True)
    torch.manual_seed(0)
    model = job.build().eval()
    scores = job.source(0, 1, CPU).evaluate(model)
    plain = EncoderJob(data=(data,), encoder=job.encoder, plan=job.plan, seed=0)
    whole = evaluate(model, plain.source(0, 1, CPU).val(), "tuebingen")
    for metric in ("nss", "kl", "cc"):
        mean = mean_of_halves(scores, metric, len(ShardReader(data, "val")))
        assert mean == pytest.approx(whole[metric], abs=1e-6)


@pytest.fixture(scope="module")
def decoder_job(data: Path, tmp_path_factory: pytest.TempPathFactory) -> DecoderTrialJob:
    """A decoder over one encoder whose readouts are cached."""
    folder = tmp_path_factory.mktemp("decoder")
    torch.manual_seed(1)
    package.save(folder / "encoder", Encoder(TINY).eval(), {})
    (frozen,) = open_encoders([folder / "encoder"], Manifest.load(data), folder / "readouts")

    def run_here(function: Any, parts: Any, *shared: Any, **options: Any) -> list[Any]:
        return [function(part, CPU, *shared) for part in parts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "map_parts", run_here)
        build_cache(frozen.cache, (data,), ("train", "val"), frozen.encoder)
    return DecoderTrialJob(
        data=(data,),
        encoders=(frozen.encoder,),
        caches=(frozen.cache,),
        decoder=DecoderConfig(),
        plan=Plan(epochs=3, batch_size=4, lr=1e-3),
        seed=4,
        num_threads=1,
    )


def train(
    search: OpenSearch, monkeypatch: pytest.MonkeyPatch, final: bool = False, **changes: Any
) -> list[dict[str, Any]]:
    """The reports of a decoder's trial to Ray Tune."""
    results: list[dict[str, Any]] = []
    monkeypatch.setattr(trial.tune, "report", results.append)
    make_job(search, final, **changes).train(Path("unused"))
    assert all(r[EPOCH] == r[REPORT]["epoch"] for r in results)
    assert all(r["ig"] == r[REPORT]["scores"]["ig"] for r in results)
    return [result[REPORT] for result in results]


def test_a_decoders_trial_reports_trained_epochs_and_its_final_run_the_untrained_model_too(
    search, decoder_job, monkeypatch
):
    search = replace(search, job=decoder_job)
    (report,) = train(search, monkeypatch)
    assert report["epoch"] == 1
    assert set(report["scores"]) == {"ig", "nss", "cc", "kl", "sim", "auc"}
    reports = train(search, monkeypatch, final=True)
    assert [report["epoch"] for report in reports] == [0, 1, 2, 3]
    assert {"ig", "held_out_ig"} <= set(reports[0]["scores"])


def test_the_same_trial_gives_the_same_scores_and_other_weights_give_others(
    search, decoder_job, monkeypatch
):
    search = replace(search, job=decoder_job)
    first, second = (train(search, monkeypatch)[0]["scores"] for _ in range(2))
    assert first == second
    other = train(search, monkeypatch, weights=LossWeights(kl=0, cc=0, nss=1))[0]["scores"]
    assert other != first


@pytest.mark.parametrize("readout", ["density", "eml"])
def test_a_decoder_on_smaller_pictures_scores_nearly_as_on_whole_ones(search, decoder_job, readout):
    job = replace(decoder_job, decoder=DecoderConfig(readout=readout))
    scores = []
    for scale in (1.0, 0.5):
        torch.manual_seed(0)
        small = make_job(searching(replace(search, job=job), trial_scale=scale), final=False)
        scores.append(small.source(0, 1, CPU).evaluate(small.build().eval()))
        targets = next(iter(small.source(0, 1, CPU).val()))[1]
        assert targets.size == tuple(round(side * scale) for side in targets_size(job))
    assert scores[1]["kl"] == pytest.approx(scores[0]["kl"], rel=0.1)


def targets_size(job: DecoderTrialJob) -> tuple[int, int]:
    return ShardReader(job.data[0], "val").sizes[0]


def test_both_halves_of_val_score_the_decoder_as_val_does(search, decoder_job, data):
    job = make_job(replace(search, job=decoder_job), final=True, weights=BASELINE_WEIGHTS)
    source, model = job.source(0, 1, CPU), job.build().eval()
    scores, num_val = source.evaluate(model), len(ShardReader(data, "val"))
    whole = evaluate(model, source.val_images(torch.arange(num_val).numpy()), "tuebingen")
    for metric in ("nss", "kl"):
        assert mean_of_halves(scores, metric, num_val) == pytest.approx(whole[metric], abs=1e-6)


def test_a_score_that_is_not_finite_fails_a_trial(search, monkeypatch):
    scores = {"ig": float("nan"), "kl": 0.5}
    monkeypatch.setattr(trial, "evaluate", lambda *given, **options: scores)
    job = replace(search.job, finite=("kl", "ig"))
    with pytest.raises(ValueError, match="not finite"):
        job.score(nn.Identity(), [], None)
    assert replace(job, finite=("kl",)).score(nn.Identity(), [], None) == scores


def test_a_trial_that_fails_says_why_in_one_line(search, monkeypatch):
    config = {"point": Space().point(BASELINE_WEIGHTS)}

    def fail(job: EncoderTrialJob, folder: Path) -> None:
        assert folder.parent == search.context.folder / "training"
        assert folder.name == search.folder_of(config).name
        raise ValueError("a long story\n  and its end")

    monkeypatch.setattr(EncoderTrialJob, "train", fail)
    with pytest.raises(RuntimeError, match=r"^and its end$"):
        run_trial(config, search)


def test_the_reason_of_a_failure_is_that_of_the_worker_that_failed_first():
    cause = RuntimeError("training failed")
    cause.worker_failures = {1: ValueError("Traceback:\n  deep\nValueError: no such file\n")}  # type: ignore[attr-defined]
    wrapped = RuntimeError("trial: training failed")
    wrapped.__cause__ = cause
    assert root_error_line(wrapped) == "ValueError: no such file"
    assert root_error_line(RuntimeError()) == "RuntimeError"
