"""`emlnet app`: a web page that predicts a picture, and compares two models on it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emlnet.data.images import draw_contours, heat, overlay, read_picture
from emlnet.extras import require_extra
from emlnet.inference.model_card import first_lines, write_card
from emlnet.inference.package import Package, describe
from emlnet.inference.predictor import Prediction
from emlnet.registry import mlflow_registry

NONE = "(none)"
MAX_PIXELS = 25_000_000
"""Of a picture that the page takes."""
KEEP_SECONDS = 3600
"""How long a file that may be downloaded is kept."""
CSS = """
.gradio-container, .gradio-container main { width: 100% !important; }
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
footer { display: none !important; }
"""


@dataclass(kw_only=True)
class Shelf:
    """The models that the page offers, each loaded when it is first asked for; two are kept.

    sources: by the name that the page shows.
    """

    sources: dict[str, str]
    tracking_uri: str | None = None
    device: str = "cpu"
    _loaded: dict[str, Package] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def predict(self, name: str, picture: NDArray[np.uint8], flip: bool) -> Prediction:
        """What the model of that name predicts; one picture at a time."""
        with self._lock:
            return self._find(name).predict(picture, flip)

    def card(self, name: str) -> str:
        """The first lines of the model's card."""
        with self._lock:
            package = self._find(name)
        encoders = describe(package.model)["encoders"]
        return first_lines(write_card(encoders, package.kind, package.about))

    def _find(self, name: str) -> Package:
        if name not in self._loaded:
            while len(self._loaded) > 1:
                self._loaded.pop(next(iter(self._loaded)))
            source = self.sources[name]
            self._loaded[name] = mlflow_registry.load(
                source, self.device, tracking_uri=self.tracking_uri
            )
        return self._loaded[name]


def find_sources(models: Sequence[str], tracking_uri: str | None) -> dict[str, str]:
    """The models to offer: those that are named, else the aliases and versions of the registry.

    Raises ValueError when none is named and there is no registry.
    """
    if models:
        names = [
            "/".join(Path(name).parts[-2:]) if Path(name).exists() else name for name in models
        ]
        if len(set(names)) < len(names):
            names = list(models)
        return dict(zip(names, models, strict=True))
    client = mlflow_registry.connect(mlflow_registry.find_tracking_uri(tracking_uri))
    known = client.search_model_versions(f"name='{mlflow_registry.NAME}'")
    if not known:
        raise mlflow_registry.NotRegisteredError(mlflow_registry.NONE_REGISTERED)
    aliases = client.get_registered_model(mlflow_registry.NAME).aliases
    # The champion first: it is what most people want.
    order = sorted(aliases, key=lambda alias: (alias != mlflow_registry.CHAMPION, alias))
    versions = sorted((int(found.version) for found in known), reverse=True)
    return {f"{a} (version {aliases[a]})": f"models:/{mlflow_registry.NAME}@{a}" for a in order} | {
        f"version {v}": f"models:/{mlflow_registry.NAME}/{v}" for v in versions
    }


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model predicts of a picture, for as long as its sliders move."""

    picture: NDArray[np.uint8]
    prediction: Prediction

    def overlay(self, strength: float, contour: bool) -> NDArray[np.uint8]:
        """The picture with its map laid over it."""
        laid = overlay(self.picture, self.prediction.grey(), strength)
        return draw_contours(laid, self.prediction.saliency) if contour else laid


def write_downloads(folder: Path, name: str, prediction: Prediction) -> tuple[str, str]:
    """The map as PNG and NumPy files to download; old ones are removed."""
    for old in folder.iterdir():
        with suppress(FileNotFoundError):  # Another request was faster.
            if time.time() - old.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(old)
    own = Path(tempfile.mkdtemp(dir=folder))
    png, npy = own / f"{name}_smap.png", own / f"{name}_smap.npy"
    Image.fromarray(prediction.picture()).save(png)
    np.save(npy, prediction.saliency, allow_pickle=False)
    return str(png), str(npy)


def build(shelf: Shelf, folder: Path) -> Any:
    """The page, a gradio.Blocks.  folder: where files to download are written."""
    import gradio as gr

    names = list(shelf.sources)
    with gr.Blocks(title="EML-NET", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("## Where do people look?\nDrop a picture; compare two models on it.")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photograph: Any = gr.Image(
                    label="Picture",
                    sources=["upload", "clipboard"],
                    type="filepath",
                    image_mode=None,
                    height=260,
                    buttons=["fullscreen"],
                    elem_id="photograph",
                )
                # The file as it was sent: `read_picture` knows modes, EXIF and what is none.
                photograph.preprocess = lambda sent: None if sent is None else sent.path
            with gr.Column(scale=1, min_width=300):
                first = gr.Dropdown(names, value=names[0], label="Model", elem_id="first")
                second = gr.Dropdown(
                    [NONE, *names], value=NONE, label="Compare with", elem_id="second"
                )
                strength = gr.Slider(0, 1, 0.5, label="Overlay", elem_id="strength")
                with gr.Row():
                    contour = gr.Checkbox(label="Lines around 25, 50, 75 %", elem_id="contour")
                    flip = gr.Checkbox(label="Average with mirrored", elem_id="flip")
        with gr.Row():
            panels = [_panel(gr, "first"), _panel(gr, "second", visible=False)]
        answers = [gr.State(None), gr.State(None)]

        def look(path: str | None, name: str, flip: bool) -> tuple[Any, ...]:
            if path is None or name == NONE:
                return None, None, None, None, ""
            try:
                picture = read_picture(Path(path), MAX_PIXELS)
                prediction = shelf.predict(name, picture, flip)
                card = shelf.card(name)
            except ValueError as error:
                said = str(error).replace(str(Path(path).parent) + "/", "")
                raise gr.Error(said, duration=20, print_exception=False) from error
            answer = Answer(picture=picture, prediction=prediction)
            png, npy = write_downloads(folder, Path(path).stem, prediction)
            return answer, heat(prediction.grey()), png, npy, card

        def lay(answer: Answer | None, strength: float, contour: bool) -> Any:
            return None if answer is None else answer.overlay(strength, contour)

        for model, panel, answer in zip((first, second), panels, answers, strict=True):
            shown = [answer, panel.map, panel.png, panel.npy, panel.card]
            redraw = {
                "fn": lay, "inputs": [answer, strength, contour], "outputs": panel.overlay,
                "show_progress": "hidden",
            }  # fmt: skip
            for event in (photograph.change, model.change, flip.change):
                event(look, [photograph, model, flip], shown).then(**redraw)
            strength.change(**redraw, trigger_mode="always_last")
            contour.change(**redraw)
        second.change(lambda name: gr.update(visible=name != NONE), second, panels[1].column)
    return page


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The components that show one model's answer."""

    column: Any
    overlay: Any
    map: Any
    png: Any
    npy: Any
    card: Any


def _panel(gr: Any, name: str, visible: bool = True) -> Panel:
    with gr.Column(min_width=300, visible=visible) as column:
        options = {"interactive": False, "buttons": ["fullscreen"], "format": "png"}
        laid = gr.Image(label="Overlay", elem_id=f"{name}-overlay", **options)
        drawn = gr.Image(label="Map", elem_id=f"{name}-map", **options)
        with gr.Row():
            png = gr.DownloadButton("Map (PNG)", size="sm", elem_id=f"{name}-png")
            npy = gr.DownloadButton("Values (npy)", size="sm", elem_id=f"{name}-npy")
        card = gr.Markdown(elem_id=f"{name}-card")
    return Panel(column=column, overlay=laid, map=drawn, png=png, npy=npy, card=card)


def serve(shelf: Shelf, host: str, port: int, ready: Callable[[str], None] = print) -> None:
    """Serves the page until it is interrupted.

    ready: told the address.  Raises ValueError without Gradio, or when the port is taken.
    """
    require_extra("app", "gradio")
    import gradio as gr

    with tempfile.TemporaryDirectory(prefix="emlnet-app-") as folder:
        page = build(shelf, Path(folder))
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size="50mb",
                max_threads=4,
                allowed_paths=[folder],
                # Fonts of the visitor's own machine: the page asks nobody else for anything.
                theme=gr.themes.Default(font=["system-ui"], font_mono=["monospace"]),
                css=CSS,
                footer_links=[],
                ssr_mode=False,
            )
        except OSError as error:
            raise ValueError(f"{host}:{port} cannot be listened on: {error}") from error
        ready(f"page at {address}")
        try:
            page.block_thread()
        finally:
            page.close(verbose=False)
