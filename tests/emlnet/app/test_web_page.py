"""The web page, in a real browser where there is one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from emlnet.app import web_page
from emlnet.inference import package


@pytest.fixture
def models(make_encoder, tmp_path):
    """Folders of two packaged models."""
    return [
        package.save(tmp_path / name, make_encoder(seed=seed), {"name": name})
        for seed, name in enumerate(("one", "two"))
    ]


@pytest.fixture
def photo(tmp_path):
    """A small photograph."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).resize((160, 120)).save(path)
    return path


def test_models_of_the_registry_are_offered_the_champion_first(store):
    sources = web_page.find_sources((), store.uri)
    assert list(sources) == [
        "champion (version 1)",
        "challenger (version 2)",
        "version 2",
        "version 1",
    ]
    assert sources["champion (version 1)"] == "models:/emlnet@champion"


def test_named_models_are_offered_by_short_names(models):
    sources = web_page.find_sources([*map(str, models), "models:/emlnet@champion"], None)
    assert list(sources.values())[:2] == [str(folder) for folder in models]
    assert [name.split("/")[-1] for name in sources] == ["one", "two", "emlnet@champion"]


def test_two_models_are_kept_and_predict_as_the_package_does(models, photo):
    shelf = web_page.Shelf(sources={"a": str(models[0]), "b": str(models[1]), "c": str(models[0])})
    picture = np.asarray(Image.open(photo))
    for name in "abc":
        expected = package.load(shelf.sources[name]).predict(picture).saliency
        np.testing.assert_array_equal(shelf.predict(name, picture, False).saliency, expected)
    assert list(shelf._loaded) == ["b", "c"]
    assert shelf.card("b").startswith("two: where people look in a picture")


def test_downloads_are_the_map_and_old_ones_go(models, photo, tmp_path):
    (tmp_path / "files").mkdir()
    prediction = package.load(models[0]).predict(photo)
    png, npy = web_page.write_downloads(tmp_path / "files", "photo", prediction)
    np.testing.assert_array_equal(np.asarray(Image.open(png)), prediction.picture())
    np.testing.assert_array_equal(np.load(npy), prediction.saliency)
    (old,) = (tmp_path / "files").iterdir()
    os.utime(old, (0, 0))
    web_page.write_downloads(tmp_path / "files", "photo", prediction)
    assert not old.exists()


@pytest.fixture
def address(models, free_port, tmp_path):
    """The page of two models on loopback."""
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "emlnet", "app", *map(str, models), "--port", str(free_port)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            if "page at" in (tmp_path / "log").read_text():
                break
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{free_port}/"
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


@pytest.fixture
def browser():
    """Chromium without a window."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("there is no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def shown(page, selector):
    """The pixels' size of a picture on the page, once it is there."""
    page.wait_for_selector(f"{selector} img", timeout=60_000)
    return page.evaluate(
        "async s => { const i = document.querySelector(s + ' img'); await i.decode();"
        " return [i.naturalWidth, i.naturalHeight, i.src]; }",
        selector,
    )


@pytest.mark.slow
def test_a_person_drops_a_picture_and_compares_two_models(address, browser, photo, tmp_path):
    elsewhere = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("request", lambda request: elsewhere.append(request.url))
    page.goto(address)
    page.set_input_files("#photograph input[type=file]", str(photo))
    assert shown(page, "#first-overlay")[:2] == [160, 120]
    assert shown(page, "#first-map")[:2] == [160, 120]
    assert not page.is_visible("#second-overlay")

    plain = shown(page, "#first-overlay")[2]
    page.check("#contour input")
    page.wait_for_function(
        "before => document.querySelector('#first-overlay img').src != before", arg=plain
    )

    page.click("#second input")
    page.get_by_role("option", name="two").click()
    assert shown(page, "#second-overlay")[:2] == [160, 120]
    assert "two: where people look" in page.inner_text("#second-card")

    with page.expect_download() as download:
        page.click("#first-png")
    saved = tmp_path / "saved.png"
    download.value.save_as(saved)
    assert download.value.suggested_filename == "photo_smap.png"
    assert Image.open(saved).size == (160, 120)
    own = (address, "data:", "blob:")
    assert [url for url in elsewhere if not url.startswith(own)] == []


@pytest.mark.slow
def test_a_wrong_file_is_refused_in_words_and_a_phone_shows_it_all(
    address, browser, photo, tmp_path
):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(address)
    (tmp_path / "fake.jpg").write_bytes(b"no picture")
    page.wait_for_selector("#photograph")
    page.set_input_files("#photograph input[type=file]", str(tmp_path / "fake.jpg"))
    page.get_by_text("fake.jpg cannot be decoded: it is no picture of a known format").wait_for()
    page.reload()
    page.wait_for_selector("#photograph")
    page.set_input_files("#photograph input[type=file]", str(photo))
    assert shown(page, "#first-overlay")[:2] == [160, 120]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
