"""The web page over HTTP, and in a real browser where there is one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from PIL import Image

from emlnet.exits import TERMINATED


@pytest.fixture
def scratch(tmp_path):
    """The temporary folder of the page's process."""
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def server(models, free_port, tmp_path, scratch):
    """The process of a page of two models on loopback."""
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "emlnet", "app", *map(str, models), "--port", str(free_port)]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        for _ in range(1200):
            if "page at" in (tmp_path / "log").read_text():
                break
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.fixture
def address(server, free_port):
    return f"http://127.0.0.1:{free_port}/"


def call(address, path, model="one"):
    """Asks the page's interface for a prediction of a path, as a program would, without `meta`."""
    url = f"{address}gradio_api/call/predict"
    with urllib.request.urlopen(f"{address}config") as answer:
        choices = [
            c["props"]["choices"]
            for c in json.load(answer)["components"]
            if c["type"] == "dropdown"
        ]
    (name,) = (value for _, value in choices[0] if value.endswith(model))
    body = json.dumps({"data": [{"path": path}, name, False, 0.5, False]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{url}/{event}") as answer:
        return answer.read().decode()


def test_only_uploads_are_opened_and_sigterm_clears_the_folder(
    server, address, photo, scratch, tmp_path
):
    (own,) = scratch.glob("emlnet-app-*")
    assert own.stat().st_mode & 0o777 == 0o700
    for path in (str(photo), "/dev/zero", "/etc/passwd", str(tmp_path / "none.jpg")):
        said = call(address, path)
        assert said.startswith("event: error"), said
        assert path not in said
    upload = own / "ab12" / "photo.jpg"
    upload.parent.mkdir()
    shutil.copy(photo, upload)
    assert "event: complete" in call(address, str(upload))
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == TERMINATED
    assert not list(scratch.glob("emlnet-app-*"))


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
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("request", lambda request: elsewhere.append(request.url))
    page.goto(address)
    page.get_by_text("one: where people look").wait_for()
    assert page.is_disabled("#first-png")
    page.set_input_files("#photograph input[type=file]", str(photo))
    assert shown(page, "#first-overlay")[:2] == [160, 120]
    assert shown(page, "#first-map")[:2] == [160, 120]
    assert not page.is_visible("#second-overlay")
    laid, drawn = (page.locator(f"#first-{name}").bounding_box() for name in ("overlay", "map"))
    assert laid["y"] == drawn["y"]
    assert drawn["y"] + drawn["height"] <= 900

    plain = shown(page, "#first-overlay")[2]
    page.check("#contour input")
    page.wait_for_function(
        "before => document.querySelector('#first-overlay img').src != before", arg=plain
    )

    page.click("#second input")
    page.get_by_role("option", name="two").click()
    assert shown(page, "#second-overlay")[:2] == [160, 120]
    assert "two: where people look" in page.inner_text("#second-card")
    sent, options = (page.locator(f"#{name}").bounding_box() for name in ("photograph", "options"))
    assert options["y"] < sent["y"] + sent["height"] + 100

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
    page.get_by_text("fake.jpg cannot be decoded: its format is not JPEG, PNG").wait_for()
    page.reload()
    page.wait_for_selector("#photograph")
    page.set_input_files("#photograph input[type=file]", str(photo))
    assert shown(page, "#first-overlay")[:2] == [160, 120]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    places = ("#photograph", "#first-overlay", "#strength")
    sent, laid, slider = (page.locator(place).bounding_box() for place in places)
    assert sent["y"] < laid["y"] < sent["y"] + sent["height"] + 120
    assert laid["y"] < slider["y"]


@pytest.mark.slow
def test_the_example_picture_is_predicted(address, browser):
    page = browser.new_page()
    page.goto(address)
    page.click("#example")
    assert shown(page, "#first-overlay")[:2] == [640, 480]
