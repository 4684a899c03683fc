"""The models that the page offers."""

from __future__ import annotations

import numpy as np
from PIL import Image

from emlnet.app.model_shelf import ModelShelf, find_sources
from emlnet.inference import package


def test_models_of_the_registry_are_offered_the_champion_first(store):
    sources = find_sources((), store.uri)
    expected = ["champion (version 1)", "challenger (version 2)", "version 2", "version 1"]
    assert list(sources) == expected
    assert sources["champion (version 1)"] == "models:/emlnet@champion"


def test_named_models_are_offered_by_short_names(models):
    sources = find_sources([*map(str, models), "models:/emlnet@champion"], None)
    assert list(sources.values())[:2] == [str(folder) for folder in models]
    assert [name.split("/")[-1] for name in sources] == ["one", "two", "emlnet@champion"]


def test_two_models_are_kept_and_predict_as_the_package_does(models, photo):
    shelf = ModelShelf(sources={"a": str(models[0]), "b": str(models[1]), "c": str(models[0])})
    picture = np.asarray(Image.open(photo))
    for name in "abc":
        expected = package.load(shelf.sources[name]).predict(picture).saliency
        np.testing.assert_array_equal(shelf.predict(name, picture, False).saliency, expected)
    assert list(shelf._loaded) == ["b", "c"]
    assert shelf.card("b").startswith("two: where people look in a picture")
