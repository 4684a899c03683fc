"""`emlnet pull | predict`: what someone does with a trained model."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Fetch a model from the registry into a folder that works without MLflow or network."""

    folder: Positional[Path]
    """Folder to make: new, empty, or of an earlier pull."""
    alias: str | None = None
    """Alias in the registry; default: champion."""
    version: int | None = None
    """Version in the registry, instead of an alias."""
    run: str | None = None
    """MLflow run whose model to fetch, instead of an alias."""
    tracking_uri: str | None = None
    """MLflow store or server; default: MLFLOW_TRACKING_URI, else ./mlflow.db."""

    def execute(self) -> int:
        """Pulls, and says what came."""
        from emlnet import package, registry

        if sum(given is not None for given in (self.alias, self.version, self.run)) > 1:
            raise ValueError("name an alias, a version or a run, not several")
        uri = registry.find_tracking_uri(self.tracking_uri)
        folder = registry.pull(self.folder, uri, self.alias, self.version, self.run)
        about = package.read_description(folder)["about"]
        print(f"pulled {about.get('name', 'a model')} into {folder}")
        if about.get("scores"):
            print("scores: " + ", ".join(f"{k} {v:.3f}" for k, v in about["scores"].items()))
        if about.get("licence"):
            print(f"licence: {about['licence']}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Predict where people look in pictures, each at its own size."""

    model: Positional[str]
    """Folder of a model, models:/emlnet@champion, models:/emlnet/VERSION or runs:/RUN_ID."""
    images: Positional[tuple[Path, ...]]
    """Picture files, of any size and mode."""
    out: Path
    """Folder for the maps, made when it is missing."""
    format: Literal["png", "npy", "log-npy"] = "png"
    """`png`: the map min-max to 0..255, <stem>_smap.png.  `npy`: the map itself, float32; a density
    sums to 1.  `log-npy`: the log-density, natural log, float32."""
    flip: bool = False
    """Average with the mirrored picture's map."""
    overlay: bool = False
    """Also write <stem>_overlay.png, the map laid over the picture."""
    tracking_uri: str | None = None
    """MLflow store or server; default: MLFLOW_TRACKING_URI, else ./mlflow.db."""

    def execute(self) -> int:
        """Predicts; 1 when a picture could not be read, after all the others were done."""
        from emlnet import package, registry

        if not self.images:
            raise ValueError("name at least one picture")
        stems = [path.stem for path in self.images]
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        if twice:
            raise ValueError(f"pictures of one name would overwrite each other: {', '.join(twice)}")
        with tempfile.TemporaryDirectory() as scratch:
            uri = registry.find_tracking_uri(self.tracking_uri)
            model = package.load(registry.resolve(self.model, uri, Path(scratch) / "model"))
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.out} cannot be made a folder: {error.strerror}") from error
        began, failed = time.perf_counter(), []
        for number, path in enumerate(self.images, 1):
            try:
                print(f"[{number}/{len(self.images)}] {self._one(model, path)}", flush=True)
            except ValueError as error:
                failed.append(f"  {error}")
        rate = len(self.images) / (time.perf_counter() - began)
        print(f"{len(self.images) - len(failed)} pictures, {rate:.1f} a second")
        if failed:
            print("could not be read:", *failed, sep="\n", file=sys.stderr)
        return 1 if failed else 0

    def _one(self, model: object, path: Path) -> Path:
        import numpy as np
        from PIL import Image

        from emlnet.package import Package
        from emlnet.picture import overlay, read_picture

        assert isinstance(model, Package)
        picture = read_picture(path)
        prediction = model.predict(picture, self.flip)
        target = self.out / f"{path.stem}_smap.{'png' if self.format == 'png' else 'npy'}"
        if self.format == "png":
            Image.fromarray(prediction.picture()).save(target)
        else:
            log = self.format == "log-npy"
            np.save(target, prediction.log_density if log else prediction.saliency)
        if self.overlay:
            laid = overlay(picture, prediction.picture() / 255)
            Image.fromarray(laid).save(self.out / f"{path.stem}_overlay.png")
        return target


Command = (
    Annotated[Pull, tyro.conf.subcommand("pull")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
)


def parse(argv: list[str]) -> Pull | Predict:
    """A command's config from its arguments."""
    return tyro.cli(Command, prog="emlnet", args=argv, description=__doc__)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; a user's error is one line on stderr and exit code 1."""
    try:
        return parse(sys.argv[1:] if argv is None else argv).execute()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
