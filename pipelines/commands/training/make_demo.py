"""`make demo`: the whole journey on a small synthetic data set, in minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tyro.conf import Positional

from emlnet.data.drawing import overlay
from emlnet.data.images import read_picture
from emlnet.inference import package
from emlnet.registry import mlflow_registry
from pipelines.config.options import Tracking
from pipelines.config.presets import find_preset
from pipelines.evaluation import score_table
from pipelines.stages import full
from shards.layouts import synthetic


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Write synthetic data, train on it, register, pull and predict; all under one folder."""

    folder: Positional[Path] = Path("demo")
    """Folder for all that the demo makes, its MLflow store too."""
    num_images: int = 60
    """Synthetic pictures, train and val together."""


def run(command: DemoCommand) -> None:
    """Run the demo and print where everything is."""
    began = time.monotonic()
    folder = command.folder.absolute()
    raw, uri = folder / "raw", f"sqlite:///{folder / 'mlflow.db'}"
    print(f"1/4 synthetic data: {command.num_images} pictures in SALICON's layout -> {raw}")
    synthetic.write_sample(raw, num_images=command.num_images, seed=0)
    print("2/4 shards, two encoders from ImageNet weights, decoder, scores, registry", flush=True)
    tracking = Tracking(out=folder / "run", tracking_uri=uri, experiment="demo")
    report = full.run(replace(find_preset("demo"), data=(raw,), tracking=tracking))
    print(
        f"3/4 emlnet pull: models:/{mlflow_registry.NAME}@{mlflow_registry.CHAMPION} -> "
        f"{folder / 'champion'}"
    )
    model = package.load(mlflow_registry.pull(folder / "champion", uri))
    picture = sorted((raw / "images" / "val").iterdir())[0]
    print(f"4/4 emlnet predict: {picture}", flush=True)
    pixels = read_picture(picture)
    laid = overlay(pixels, model.predict(pixels, flip=True).picture() / 255)
    target = folder / f"{picture.stem}_overlay.png"
    Image.fromarray(np.hstack([pixels, laid])).save(target)
    print(
        f"\nScores on {report['split']}, synthetic pictures:\n{score_table.text(report['scores'])}"
    )
    print(f"\nOverlay: {target}")
    print(f"Runs:    make ui STORE={uri}")
    print(f"Done in {time.monotonic() - began:.0f} s.", flush=True)
