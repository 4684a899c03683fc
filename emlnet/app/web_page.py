"""`emlnet app`: a web page that predicts a picture, and compares two models on it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emlnet.app.model_pool import ModelPool
from emlnet.app.page_files import KEEP_SECONDS, MAX_BYTES, PageFiles, ResultFiles
from emlnet.data.drawing import INFERNO, colour_map
from emlnet.exits import TERMINATED
from emlnet.extras import require_extra

NONE = "(none)"
NUM_SESSIONS = 100
"""Sessions kept at once, for the sliders; the oldest is dropped."""
CSS = """
.gradio-container, .gradio-container main { width: 100% !important; }
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
footer { display: none !important; }
#page { display: grid !important; grid-template-columns: 330px minmax(0, 1fr); gap: 12px;
        grid-template-areas: "photograph results" "options results";
        grid-template-rows: auto 1fr; align-items: start; }
#photograph-column { grid-area: photograph; } #options { grid-area: options; }
#results { grid-area: results; }
#page > * { min-width: 0 !important; }
button:disabled, button[disabled] { opacity: 0.4 !important; cursor: not-allowed !important; }
@media (max-width: 760px) {
  #page { grid-template-columns: minmax(0, 1fr); grid-template-rows: none;
          grid-template-areas: "photograph" "results" "options"; } }
"""
LEGEND = (
    '<div style="display:flex;gap:8px;align-items:center">few looks<div style="flex:1;height:12px;'
    f'background:linear-gradient(90deg,{",".join(f"rgb{tuple(map(int, c))}" for c in INFERNO)})">'
    "</div>many looks</div>"
)


def build(pool: ModelPool, files: PageFiles) -> Any:
    """Return the page, a gradio.Blocks."""
    import gradio as gr

    names = list(pool.sources)
    with gr.Blocks(
        title="EML-NET", analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)
    ) as page:
        gr.Markdown("## Where do people look?")
        with gr.Row(elem_id="page"):
            with gr.Column(elem_id="photograph-column"):
                photograph: Any = gr.Image(
                    label="Drop a picture here",
                    sources=["upload", "clipboard"],
                    type="filepath",
                    height=240,
                    buttons=["fullscreen"],
                    elem_id="photograph",
                )
                # Pass the path on unopened: Gradio's preprocess opens any path that comes
                # without `meta`.  PageFiles.read checks it.
                photograph.preprocess = lambda sent: sent and sent.path
                example = gr.Button("Try an example picture", size="sm", elem_id="example")
            with gr.Column(elem_id="results"):
                panels = [_panel(gr, "first"), _panel(gr, "second", visible=False)]
            with gr.Column(elem_id="options"):
                first = gr.Dropdown(names, value=names[0], label="Model", elem_id="first")
                second = gr.Dropdown(
                    [NONE, *names],
                    value=NONE,
                    label="Compare with a second model",
                    visible=len(names) > 1,
                    elem_id="second",
                )
                strength = gr.Slider(
                    0, 1, 0.5, label="Strength of the map over the picture", elem_id="strength"
                )
                contour = gr.Checkbox(
                    label="Outline the areas that hold 25, 50 and 75 % of looks", elem_id="contour"
                )
                flip = gr.Checkbox(
                    label="Average with the mirrored picture: twice the time, a little better",
                    elem_id="flip",
                )

        def predict(
            path: str | None, name: str, flip: bool, strength: float, contour: bool
        ) -> list[Any]:
            if path is None or name == NONE:
                unusable = gr.update(value=None, interactive=False)
                return [None, None, None, unusable, unusable]
            with _page_errors(gr):
                prediction = pool.predict(name, files.read(path), flip)
                result = files.keep(Path(path), prediction)
                overlaid = files.overlay(result, strength, contour)
            buttons = [gr.update(value=str(f), interactive=True) for f in (result.png, result.npy)]
            return [result, overlaid, colour_map(prediction.grey()), *buttons]

        def draw(result: ResultFiles | None, strength: float, contour: bool) -> Any:
            with _page_errors(gr):
                return None if result is None else files.overlay(result, strength, contour)

        def card(name: str) -> str:
            with _page_errors(gr):
                return "" if name == NONE else pool.card(name)

        for model, (_, *outputs, about) in zip((first, second), panels, strict=True):
            result = gr.State(None, time_to_live=KEEP_SECONDS)
            inputs = [photograph, model, flip, strength, contour]
            gr.on(
                [photograph.change, model.change, flip.change],
                predict,
                inputs,
                [result, *outputs],
                show_progress_on=outputs[:2],
            )
            gr.on(
                [strength.change, contour.change],
                draw,
                [result, strength, contour],
                outputs[0],
                show_progress="hidden",
                trigger_mode="always_last",
            )
            gr.on([page.load, model.change], card, model, about, show_progress="hidden")
        second.change(lambda name: gr.update(visible=name != NONE), second, panels[1][0])
        example.click(lambda: str(files.write_example()), None, photograph, show_progress="hidden")
    return page


@contextmanager
def _page_errors(gr: Any) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), duration=20, print_exception=False) from error


def _panel(gr: Any, name: str, visible: bool = True) -> tuple[Any, ...]:
    """Return the components of a model's result: column, overlay, map, two buttons, card."""
    options = {"interactive": False, "buttons": ["fullscreen"], "format": "png", "height": 300}
    with gr.Column(visible=visible) as column:
        with gr.Row():
            overlaid = gr.Image(label="Picture with map", elem_id=f"{name}-overlay", **options)
            map_only = gr.Image(label="Map of looks", elem_id=f"{name}-map", **options)
        gr.HTML(LEGEND)
        with gr.Row():
            buttons = [
                gr.DownloadButton(label, size="sm", interactive=False, elem_id=f"{name}-{ending}")
                for label, ending in (("Save map as PNG", "png"), ("Save values as npy", "npy"))
            ]
        card = gr.Markdown(elem_id=f"{name}-card")
    return column, overlaid, map_only, *buttons, card


def serve(pool: ModelPool, host: str, port: int, ready: Callable[[str], None] = print) -> None:
    """Serve the page until Ctrl-C or SIGTERM, then delete its folder.

    ready: called with a line that contains the address.
    Raises ValueError without Gradio, or if the port is taken.
    """
    require_extra("app", "gradio")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    # Only its user can read the folder (0700).
    with tempfile.TemporaryDirectory(prefix="emlnet-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        import gradio as gr

        page = build(pool, PageFiles(folder=Path(folder)))
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=MAX_BYTES,
                max_threads=4,
                state_session_capacity=NUM_SESSIONS,
                # System fonts: the page loads nothing from other servers.
                theme=gr.themes.Default(font=["system-ui"], font_mono=["monospace"]),
                css=CSS,
                footer_links=[],
                ssr_mode=False,
            )
        except OSError as error:
            raise ValueError(f"cannot listen on {host}:{port}: {error}") from error
        ready(f"page at {address}")
        try:
            page.block_thread()
        finally:
            page.close(verbose=False)
