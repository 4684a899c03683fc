"""Trials of an encoder and of the decoder, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from emlnet.inference import package
from emlnet.losses.weighted import LossWeights
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.finetune import Finetune
from emlnet.training.state import Plan
from emlnet.training.validation import evaluate
from pipelines.config.options import Compute
from pipelines.ray_cluster import tasks
from pipelines.stages import readout_cache
from pipelines.stages.encoder_stage import EncoderJob
from pipelines.stages.frozen_encoders import open_encoders
from pipelines.stages.readout_cache import Cache
from shards.files.manifest import Manifest
from shards.read.loader import ErrorPolicy
from shards.read.reader import ShardReader
from tune import decoder_trial, encoder_trial, search
from tune.__main__ import parse
from tune.decoder_trial import DecoderSubject
from tune.encoder_trial import EncoderSubject, TrialJob, trial_size
from tune.objective import halves
from tune.results import Spec
from tune.search_config import LossWeightsCommand
from tune.space import EQUAL, Space
from tune.trial import EPOCH, REPORT, SCORE, Result, Setting, one_line, trial_compute

RESULT = Result(objectives=("ig",), stop_by="ig")
TINY = EncoderConfig(backbone="tiny", weights="none", size=(96, 128))


def setting(subject: Any, folder: Path, **changes: Any) -> Setting:
    made: dict[str, Any] = {
        "folder": folder,
        "subject": subject,
        "space": Space(also=("lr", "width")),
        "objectives": ("ig",),
        "stop_by": "ig",
        "plan": Plan(epochs=3, batch_size=4, lr=1e-3),
        "trial_epochs": 1,
        "trial_scale": 0.5,
    }
    return Setting(**{**made, **changes})


def encoder_subject(data: Path, **changes: Any) -> EncoderSubject:
    return EncoderSubject(data=data, encoder=TINY, compute=Compute(), **changes)


def job_of(data: Path, tmp_path: Path, final: bool, **changes: Any) -> TrialJob:
    subject = encoder_subject(data, **changes)
    point = {**Space().point(LossWeights(kl=2, cc=0, nss=1)), "lr": 2.0, "width": 0.5}
    spec = Spec(point=point, seed=4, final=final)
    return subject.job(setting(subject, tmp_path).trial(spec))


def test_a_trial_of_an_encoder_is_short_and_small(data, tmp_path):
    job = job_of(data, tmp_path, final=False)
    assert (job.plan.epochs, job.plan.lr, job.seed) == (1, 0.002, 4)
    assert (job.encoder.size, job.encoder.readout_width) == ((48, 64), 16)
    assert job.plan.loss_weights == LossWeights(kl=2, cc=0, nss=1)
    assert job.title == "trial kl=2,nss=1"
    assert job.plan.select == "ig"
    whole = ShardReader(data, "train").decoded(0)
    assert job.reader("train").decoded(0).image.shape[0] == whole.image.shape[0] // 2


def test_a_final_run_is_the_real_training_and_starts_from_no_warm_up(data, tmp_path):
    job = job_of(data, tmp_path, final=True, warm_start=tmp_path / "warm-up.safetensors")
    assert (job.plan.epochs, job.encoder.size, job.warm_start) == (3, (96, 128), None)


@pytest.mark.parametrize(
    ("backbone", "size", "small"),
    [
        ("tiny", (360, 480), (176, 240)),
        ("tiny", (48, 64), (32, 32)),
        ("timm:vit_small_patch14_dinov2.lvd142m", (476, 644), (238, 322)),
        ("timm:mixer_b16_224", (224, 224), (224, 224)),
    ],
)
def test_a_trial_is_of_a_size_that_the_backbone_takes(backbone, size, small):
    config = EncoderConfig(backbone=backbone, weights="none", size=size)
    assert trial_size(config, 0.5) == small
    assert replace(config, size=small).size == small
    assert trial_size(config, 1) == size


def test_a_trial_starts_from_a_packaged_encoder_and_finetunes_as_asked(data, tmp_path):
    packaged = Encoder(TINY).eval()
    package.save(tmp_path / "package", packaged, {})
    config = replace(TINY, weights=str(tmp_path / "package"))
    errors = ErrorPolicy(on_error="skip", max_skipped=0.5)
    subject = EncoderSubject(
        data=data,
        encoder=config,
        compute=Compute(errors=errors),
        finetune=Finetune(freeze=1),
    )
    spec = Spec(point=Space().point(EQUAL), seed=4, final=True)
    job = subject.job(setting(subject, tmp_path, space=Space()).trial(spec))
    built = job.build()
    for name, value in built.state_dict().items():
        assert torch.equal(value, packaged.state_dict()[name]), name
    assert not all(weight.requires_grad for weight in built.parameters())
    source = job.source(0, 1, torch.device("cpu"))
    assert source._held_out is not None
    assert source._train.errors == source._held_out.errors == errors


def test_hours_are_refused_where_the_workers_of_a_stopped_trial_would_never_be_free(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(search, "has_dashboard", lambda: False)
    command = parse(f"loss-weights --data {data} --max-hours 1 --objective nss,kl".split())
    assert isinstance(command, LossWeightsCommand)
    place: Any = SimpleNamespace(folder=tmp_path, parent="run", tracker=None)
    with pytest.raises(ValueError, match=r"no dashboard.*leave --max-hours out"):
        search.run_search(command, setting(encoder_subject(data), tmp_path), place, 1)


def test_a_trial_starts_from_the_warm_up(data, tmp_path):
    warm = Encoder(replace(TINY, size=(48, 64), readout_width=16))
    file = tmp_path / "warm-up.safetensors"
    save_file(warm.state_dict(), file)
    built = job_of(data, tmp_path, final=False, warm_start=file).build()
    for name, value in built.state_dict().items():
        assert torch.equal(value, warm.state_dict()[name]), name


def test_a_trial_never_sees_the_half_of_val_that_is_reported(data, tmp_path):
    num_val = len(ShardReader(data, "val"))
    tuned, held_out = halves(num_val)
    keys = ShardReader(data, "val").keys
    assert job_of(data, tmp_path, final=False).reader("val").keys == tuple(keys[p] for p in tuned)
    trial = job_of(data, tmp_path, final=False).source(0, 1, torch.device("cpu"))
    assert trial._held_out is None
    final = job_of(data, tmp_path, final=True).source(0, 1, torch.device("cpu"))
    assert final._held_out is not None
    assert final._held_out.reader.keys == tuple(keys[p] for p in held_out)


def test_both_halves_of_val_together_score_as_val_does(data, tmp_path):
    job = job_of(data, tmp_path, final=True)
    torch.manual_seed(0)
    model = job.build().eval()
    scores = job.source(0, 1, torch.device("cpu")).evaluate(model)
    num_val = len(ShardReader(data, "val"))
    counts = [len(half) for half in halves(num_val)]
    plain = EncoderJob(data=(data,), encoder=job.encoder, plan=job.plan, seed=0)
    whole = evaluate(model, plain.source(0, 1, torch.device("cpu")).val(), "tuebingen")
    for metric in ("nss", "kl", "cc"):
        parts = [scores[metric], scores[f"held_out_{metric}"]]
        mean = sum(p * c for p, c in zip(parts, counts, strict=True)) / num_val
        assert mean == pytest.approx(whole[metric], abs=1e-6)


@pytest.fixture
def decoder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DecoderSubject:
    """A decoder over one encoder, with an object store that is a dict."""

    def spread(function, parts, *shared, **more):
        return [function(part, torch.device("cpu"), *shared) for part in parts]

    monkeypatch.setattr(tasks, "spread", spread)
    store: dict[int, Any] = {}
    monkeypatch.setattr(
        decoder_trial, "ray", SimpleNamespace(put=lambda v: store.setdefault(id(v), v), get=_same)
    )
    torch.manual_seed(1)
    package.save(tmp_path / "encoder", Encoder(TINY).eval(), {})
    manifest = Manifest.load(data)
    (frozen,) = open_encoders([tmp_path / "encoder"], manifest, tmp_path / "readouts")
    readout_cache.build(frozen.cache, (data,), ("train", "val"), frozen.encoder)
    return DecoderSubject(
        data=data,
        encoders=(frozen.encoder,),
        caches=(frozen.cache,),
        decoder=DecoderConfig(),
        shared=decoder_trial.share(data, (frozen.encoder,), (frozen.cache,), 0.5),
        num_threads=1,
    )


def _same(value: Any) -> Any:
    return value


def train(decoder: DecoderSubject, folder: Path, **spec: Any) -> list[dict[str, Any]]:
    """The reports that Ray Tune is told."""
    told: list[dict[str, Any]] = []
    chosen = setting(decoder, folder, space=Space())
    trial = chosen.trial(Spec(**{"point": Space().point(EQUAL), "seed": 0, **spec}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_trial.tune, "report", told.append)
        decoder.train(trial, folder, RESULT)
    assert [each[EPOCH] for each in told] == [each[REPORT]["epoch"] for each in told]
    assert [each[SCORE] for each in told] == [each[REPORT]["scores"]["ig"] for each in told]
    return [each[REPORT] for each in told]


def test_an_encoder_tells_tune_epoch_and_score_once_more_at_its_end(data, tmp_path, monkeypatch):
    told: list[dict[str, Any]] = []
    entry = {"epoch": 2, "scores": {"ig": 0.5}}
    monkeypatch.setattr(encoder_trial.trainer, "train", lambda *args, **more: {"history": [entry]})
    monkeypatch.setattr(encoder_trial, "EpochReporter", lambda result: None)
    monkeypatch.setattr(encoder_trial.tune, "report", told.append)
    subject = encoder_subject(data)
    trial = setting(subject, tmp_path).trial(Spec(point=Space().point(EQUAL), seed=0))
    subject.train(trial, tmp_path, RESULT)
    assert told == [{EPOCH: 2, SCORE: 0.5, REPORT: entry}]


def test_a_score_that_is_no_number_fails_a_trial():
    with pytest.raises(ValueError, match="no number"):
        RESULT({"epoch": 1, "scores": {"ig": float("nan")}})


def test_a_trial_of_the_decoder_reports_each_epoch_and_not_the_untrained_model(decoder, tmp_path):
    (report,) = train(decoder, tmp_path)
    assert report["epoch"] == 1
    assert set(report["scores"]) == {"ig", "nss", "cc", "kl", "sim", "auc"}


def test_the_same_trial_of_the_decoder_gives_the_same_scores(decoder, tmp_path):
    first, second = (train(decoder, tmp_path)[0] for _ in range(2))
    assert first["scores"] == second["scores"]
    other = Space().point(LossWeights(kl=0, cc=0, nss=1))
    assert train(decoder, tmp_path, point=other)[0]["scores"] != first["scores"]


def test_a_final_run_of_the_decoder_has_the_untrained_model_and_both_halves(decoder, tmp_path):
    reports = train(decoder, tmp_path, final=True)
    assert [report["epoch"] for report in reports] == [0, 1, 2, 3]
    assert {"ig", "held_out_ig"} <= set(reports[0]["scores"])


def test_a_failure_is_told_in_one_line_by_the_worker_it_began_in():
    plain = ValueError("3 workers want a CPU each")
    assert one_line(plain) == "3 workers want a CPU each"
    cause = RuntimeError("training failed")
    cause.worker_failures = {1: ValueError("Traceback:\n  deep\nValueError: no such file\n")}  # type: ignore[attr-defined]
    wrapped = RuntimeError("trial: training failed")
    wrapped.__cause__ = cause
    assert one_line(wrapped) == "ValueError: no such file"
    assert one_line(RuntimeError()) == "RuntimeError"


def test_trials_share_the_cores_unless_threads_are_given():
    assert trial_compute(Compute(), 3).threads == 3
    assert trial_compute(Compute(threads=5), 3).threads == 5
    assert trial_compute(Compute(max_failures=9), 3).max_failures == 0


def test_what_trials_of_the_decoder_share_gives_the_answers_of_the_whole_model(decoder):
    """At the full size, where nothing is shrunk, the two ways to call it agree."""
    shared = decoder_trial.share(decoder.data, decoder.encoders, decoder.caches, 1.0)["val"]
    net = EMLNet(decoder.encoders, DecoderConfig())
    with torch.no_grad():
        for weight in net.decoder.parameters():
            weight.normal_(std=0.1)
    size = ShardReader(decoder.data, "val").sizes[0]
    cached = Cache.open(decoder.caches[0], "val").read([0, 1], [False, True])
    with torch.no_grad():
        expected = net.eval().decode([[tap.float() for tap in cached]], size)
        given = [[tap.float() for tap in shared.readouts[0].read([0, 1], [False, True])]]
        found = decoder_trial.Joined(net.decoder, "density", _same).eval()(given, size)
    assert (found - expected).abs().max() < 0.02  # half precision of the encoder's map


def test_the_papers_decoder_decodes_at_the_size_that_the_encoders_saw(decoder):
    """At the full size, with pictures of another size than the encoder's."""
    net = EMLNet(decoder.encoders, DecoderConfig(readout="eml")).eval()
    size = ShardReader(decoder.data, "val").sizes[0]
    taps = [tap.float() for tap in Cache.open(decoder.caches[0], "val").read([0], [False])]
    assert net.encoder_list[0].input_size(size) != size
    joined = decoder_trial.Joined(net.decoder, "eml", net.encoder_list[0].input_size).eval()
    with torch.no_grad():
        found = joined([[*taps, torch.empty(0)]], size)
        assert torch.allclose(found, net.decode([taps], size), atol=1e-6)


def test_the_papers_decoder_is_tuned_as_well(decoder, tmp_path):
    paper = replace(decoder, decoder=DecoderConfig(readout="eml"))
    (report,) = train(paper, tmp_path)
    assert 0 < report["scores"]["kl"] < 10
