"""The models that the page offers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from emlnet.app.model_pool import ModelPool, find_sources
from emlnet.inference import package


def test_models_of_the_registry_are_offered_the_champion_first(store):
    sources = find_sources((), store.uri)
    expected = [
        "champion (version 1)",
        "challenger (version 2)",
        "version 2",
        "version 1",
        "builtin",
    ]
    assert list(sources) == expected
    assert sources["champion (version 1)"] == "models:/emlnet@champion"
    assert find_sources(["a", "b"], None) == {"a": "a", "b": "b"}


def test_without_a_registry_the_built_in_model_is_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert find_sources((), None) == {"builtin": "builtin"}
    with pytest.raises(ValueError, match="no MLflow store at "):
        find_sources((), "sqlite:///none.db")


def test_two_models_are_kept_and_predict_as_the_package_does(models, photo):
    sources = {"a": str(models[0]), "b": str(models[1]), "c": str(models[0])}
    pool = ModelPool(sources)
    picture = np.asarray(Image.open(photo))
    for name in "abc":
        expected = package.load(sources[name]).predict(picture).saliency
        np.testing.assert_array_equal(pool.predict(name, picture, False).saliency, expected)
    assert pool.card("b").startswith("two: where people look in a picture")
    shutil.rmtree(models[0])
    pool.card("c")
    with pytest.raises(ValueError, match="no model at"):
        pool.card("a")
