"""A model as ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emlnet.__main__ import main
from emlnet.inference import export_onnx, package
from emlnet.inference.package import Package
from emlnet.inference.predictor import predict_output

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(path, image):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {"image": image.numpy()})[0]


@pytest.fixture
def net(make_net):
    return Package(model=make_net(("density", "density")), about={"name": "two", "licence": "CC0"})


def test_an_export_answers_the_models_density_for_any_batch(net, tmp_path, capsys):
    package.save(tmp_path / "m", net.model)
    out = tmp_path / "deep" / "m.onnx"
    assert main(["export", str(tmp_path / "m"), "--onnx", "--out", str(out)]) == 0
    assert "opset 18, size 32 x 48" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["m.onnx"]
    for batch in (1, 4):
        image = torch.rand(batch, 3, 32, 48)
        expected = predict_output(net.model, image).exp().numpy()
        np.testing.assert_allclose(run(out, image), expected, rtol=1e-3, atol=1e-6)


def test_an_export_of_any_size_sees_the_picture_as_it_is(net, tmp_path):
    shapes, _ = export_onnx.export_onnx(net, tmp_path / "m.onnx", dynamic_size=True)
    assert len({shape[1:] for shape in shapes}) == 4
    for size in ((48, 32), (32, 48)):  # Of the model's own area, so that it does not resize either.
        assert net.encoders[0].input_size(size) == size
        image = torch.rand(2, 3, *size)
        expected = predict_output(net.model, image).exp().numpy()
        np.testing.assert_allclose(run(tmp_path / "m.onnx", image), expected, rtol=1e-3, atol=1e-6)


def test_an_encoder_alone_is_exported_for_any_size(make_encoder, tmp_path):
    encoder = Package(model=make_encoder())
    assert export_onnx.export_onnx(encoder, tmp_path / "m.onnx", dynamic_size=True)[1] < 1e-4


def test_an_eml_model_is_exported_at_its_own_size_alone(make_net, tmp_path):
    net = Package(model=make_net(("eml",), "eml"))
    export_onnx.export_onnx(net, tmp_path / "m.onnx")
    assert run(tmp_path / "m.onnx", torch.rand(1, 3, 32, 48)).sum() == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="stretches pictures to one size"):
        export_onnx.export_onnx(net, tmp_path / "d.onnx", dynamic_size=True)


def test_the_file_says_what_it_is(net, tmp_path):
    export_onnx.export_onnx(net, tmp_path / "m.onnx", dynamic_size=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    about = session.get_modelmeta().custom_metadata_map
    assert (about["name"], about["licence"], about["size"]) == ("two", "CC0", "picture's")


def test_an_export_that_differs_is_not_kept(net, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "compare", lambda *_: 0.01)
    with pytest.raises(ValueError, match=r"differs by 1\.0e-02, over 1e-04; not exported"):
        export_onnx.export_onnx(net, tmp_path / "m.onnx", dynamic_size=True)
    assert not list(tmp_path.iterdir())


def test_an_export_that_answers_nan_at_one_shape_is_not_kept(net, tmp_path, monkeypatch):
    real, calls = export_onnx.min_max, []

    def broken(maps):
        calls.append(maps)
        return real(maps) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(export_onnx, "min_max", broken)
    with pytest.raises(ValueError, match="differs by nan"):
        export_onnx.export_onnx(net, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_format_must_be_named(tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 1
    assert "name one format: --onnx or --half" in capsys.readouterr().err
