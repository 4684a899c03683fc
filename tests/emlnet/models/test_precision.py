from __future__ import annotations

import gzip
import json

import pytest
import torch

from emlnet.models import precision
from emlnet.training.fit import fit
from emlnet.training.state import Plan, start
from tests.emlnet.training.small_training import Batches

CPU = torch.device("cpu")


def train(model, steps, **options):
    plan = Plan(epochs=2, batch_size=2, lr=0.01, **options)
    state = fit(start(model, plan, len(steps)), plan, Batches(steps))
    return [entry.train_loss["total"] for entry in state.history], state


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_a_model_in_bfloat16_answers_in_float32_and_sums_to_one(make_encoder, image, kind):
    encoder = make_encoder(kind)
    with torch.no_grad(), precision.autocast("bfloat16", CPU):
        features = encoder.backbone(image)
        answer = encoder(image)
    assert features[0].dtype == torch.bfloat16
    assert answer.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(answer, encoder(image), rtol=0.05, atol=0.05)
        if kind == "density":
            assert answer.exp().sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_a_head_in_bfloat16_training_rounds_nothing(make_net, image):
    net = make_net(("density", "eml"))
    with torch.no_grad():
        readouts = net.readouts(image)
        expected = net.decode(readouts, (32, 48))
        with precision.autocast("bfloat16", CPU):
            assert torch.equal(net.decode(readouts, (32, 48)), expected)


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_training_in_bfloat16_comes_near_to_that_in_float32(make_encoder, steps, kind):
    losses, state = train(make_encoder(kind), steps, precision="bfloat16")
    expected, _ = train(make_encoder(kind), steps)
    assert losses == pytest.approx(expected, rel=0.05, abs=0.05)
    assert losses != expected
    assert {weight.dtype for weight in state.model.parameters()} == {torch.float32}


def test_products_of_float32_are_rounded_only_where_asked():
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [each.fp32_precision for each in settings]
    try:
        for name, products in (("float32", "ieee"), ("tf32", "tf32")):
            precision.set_precision(name)
            assert [each.fp32_precision for each in settings] == [products] * 2
    finally:
        for each, value in zip(settings, before, strict=True):
            each.fp32_precision = value


def test_a_compiler_that_fails_costs_one_line(make_encoder, steps, monkeypatch):
    def broken(function):
        def fail(*inputs):
            raise RuntimeError("no C++ compiler\nand a long story")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    lines, model = [], make_encoder()
    precision.compile_training(model, lines.append)
    losses, _ = train(model, steps)
    expected, _ = train(make_encoder(), steps)
    assert lines == ["training continues without torch.compile, which failed: no C++ compiler"]
    assert losses == expected


def test_only_training_steps_are_compiled(make_encoder, image, monkeypatch):
    calls = []

    def counted(function):
        return lambda *inputs: (calls.append(1), function(*inputs))[1]

    monkeypatch.setattr(torch, "compile", counted)
    model = make_encoder()
    keys = list(model.state_dict())
    precision.compile_training(model, calls.append)
    model.eval()(image)
    assert not calls
    model.train()(image)
    assert calls == [1]
    assert list(model.state_dict()) == keys


def test_a_trace_of_three_steps_is_written_whole(tmp_path, make_encoder, image):
    encoder = make_encoder()
    with precision.trace(tmp_path / "trace.json.gz") as traced:
        for _ in range(7):
            encoder(image).sum().backward()
            traced()
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]
    with gzip.open(tmp_path / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = {e["name"] for e in events if e.get("name", "").startswith("ProfilerStep")}
    assert len(steps) == 3
    assert any("conv" in event.get("name", "") for event in events)
