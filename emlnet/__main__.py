"""`emlnet VERB`: pull, run and export trained models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg
from tyro.extras import subcommand_cli_from_dict

from emlnet.exits import exit_code
from emlnet.public_url import public_url


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The registry of trained models."""

    tracking_uri: str | None = None
    """MLflow store or server; default: MLFLOW_TRACKING_URI, else ./mlflow.db."""


@dataclass(frozen=True, kw_only=True)
class Pull(Registry):
    """Fetch a model from the registry, a folder or the web into a folder of its own."""

    folder: Positional[Path]
    """Folder to make: new, empty, or from an earlier pull."""
    alias: str | None = None
    """Alias in the registry; default: champion."""
    version: int | None = None
    """Version in the registry, instead of an alias."""
    run: str | None = None
    """MLflow run with the model, instead of an alias."""
    source: Annotated[str | None, arg(name="from")] = None
    """Folder, archive (.tar, .tar.gz, .tgz, .zip) or http(s) address of either, instead of the
    registry; an archive may be followed by #sha256=HEX.  Needs no MLflow."""
    sha256: str | None = None
    """Expected SHA-256 of model.json, which holds the digests of the other files."""

    def execute(self) -> int:
        """Pull the model and print its name and digest."""
        print(f"pulling {public_url(self.source or 'from the registry')}", flush=True)
        from emlnet.inference import model_card, package
        from emlnet.registry import download, mlflow_registry

        given = (self.alias, self.version, self.run, self.source)
        if sum(value is not None for value in given) > 1:
            raise ValueError("pass only one of --alias, --version, --run and --from")
        if self.sha256 is not None and not download.HEX.fullmatch(self.sha256):
            raise ValueError(f"--sha256 takes 64 hexadecimal digits, not {self.sha256!r}")
        if self.source is not None:
            download.fetch(self.source, self.folder, self.sha256)
        else:
            uri = mlflow_registry.find_tracking_uri(self.tracking_uri)
            mlflow_registry.pull(self.folder, uri, self.alias, self.version, self.run, self.sha256)
        name = package.read_description(self.folder).about.get("name") or "a model"
        digest = package.file_digest(self.folder / package.MODEL)
        print(
            f"pulled {model_card.printable(name)} into {self.folder}; pin it by --sha256 {digest}"
        )
        if (self.folder / package.CARD).is_file():
            print(model_card.first_lines((self.folder / package.CARD).read_text()))
        return 0


@dataclass(frozen=True, kw_only=True)
class Predict(Registry):
    """Predict where people look in pictures, each at its own size."""

    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="[MODEL] PICTURE [PICTURE ...]")]
    """MODEL: a folder, archive or http(s) address of a model, models:/emlnet@champion,
    models:/emlnet/VERSION or runs:/RUN_ID; default: builtin, the model that comes with emlnet.
    PICTURE: a picture file, a folder (searched through) or a glob pattern in quotes."""
    out: Path = Path("maps")
    """Folder for the maps; keeps the structure of searched folders."""
    format: Literal["png", "png16", "npy", "log-npy"] = "png"
    """`png`: the map scaled from its range to 0..255, <stem>_smap.png; `png16`: to 0..65535.
    `npy`: the map itself, float32; a density sums to 1.  `log-npy`: the log-density, natural log,
    float32."""
    flip: bool = False
    """Average with the mirrored picture's map."""
    overlay: bool = False
    """Also write <stem>_overlay.png, the map laid over the picture in inferno colours."""
    contour: bool = False
    """Draw lines around the regions that hold 25, 50 and 75 % of the map: on the overlay, or
    without --overlay on the picture, as <stem>_contour.png."""
    figure: bool = False
    """Also write <stem>_figure.png: photograph, map and overlay side by side."""
    same_scale: bool = False
    """Draw the maps of all pictures on one scale, from 0 to the highest value of all, so that they
    can be compared; takes twice the time."""
    batch_size: int = 8
    """Largest batch of equally sized pictures."""
    device: str | None = None
    """`cpu`, `cuda` or `cuda:N`; default: the GPU when there is one."""
    precision: Literal["auto", "full", "half"] = "auto"
    """Bits in which backbones compute: `full`, 32; `half`, 16; `auto`, 16 only on a GPU."""

    def execute(self) -> int:
        """Predict all pictures; return 1 if one of them could not be read."""
        print("loading the model", flush=True)
        from emlnet.inference import predict_files
        from emlnet.inference.predictor import bound_layer_cache
        from emlnet.models.precision import set_precision
        from emlnet.registry import model_sources

        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {self.batch_size}")
        source, images = model_sources.split_source(self.inputs)
        pictures, left_out = predict_files.find_pictures(images, self.out)
        predict_files.print_left_out(left_out)
        device = find_device(self.device)
        bound_layer_cache()
        half = self.precision == "half" or (self.precision == "auto" and device != "cpu")
        if device != "cpu":
            set_precision("float32")
        model = model_sources.load(source, device, half, self.tracking_uri)
        self.out.mkdir(parents=True, exist_ok=True)
        output_files = predict_files.OutputFiles(
            format=self.format, overlay=self.overlay, contour=self.contour, figure=self.figure,
            model=str(model.about.get("name") or source),
        )  # fmt: skip
        failed = predict_files.predict_all(
            model, pictures, output_files, self.flip, self.batch_size, self.same_scale
        )
        predict_files.print_failed(failed)
        num = len(pictures) - len(failed)
        print(f"maps in {self.out}: {num}. NAME{output_files.ending} is the map of NAME")
        return 1 if failed else 0


@dataclass(frozen=True, kw_only=True)
class Export(Registry):
    """Write a model in another format."""

    model: Positional[str] = "builtin"
    """Model: as in `predict`."""
    onnx: bool = False
    """ONNX: `image` (B, 3, H, W) float32 RGB in 0..1 to `density` (B, 1, H, W), which sums to 1."""
    half: bool = False
    """Packaged model with weights in 16 bits, half as large."""
    out: Path | None = None
    """File to write, or folder with --half; default: emlnet.onnx or emlnet-half."""
    dynamic_size: bool = False
    """Take any height and width; pictures are not resized."""

    def execute(self) -> int:
        """Export the model and print the result."""
        print(f"loading {public_url(self.model)}", flush=True)
        from emlnet.inference import package
        from emlnet.inference.export_onnx import OPSET, export_onnx
        from emlnet.registry import model_sources

        if self.onnx == self.half:
            raise ValueError("name one format: --onnx or --half")
        model = model_sources.load(self.model, tracking_uri=self.tracking_uri)
        out = self.out or Path("emlnet.onnx" if self.onnx else "emlnet-half")
        if self.half:
            package.save(out, model.model, model.about, half=True)
            megabytes = (out / package.WEIGHTS).stat().st_size / 1e6
            print(f"{out}: weights of {megabytes:.1f} MB")
            return 0
        shapes, error = export_onnx(model, out, self.dynamic_size)
        size = " x ".join(map(str, shapes[0][1:]))
        near = "any size, best close to" if self.dynamic_size else "size"
        print(f"{out}: opset {OPSET}, {near} {size}")
        checked = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
        print(f"same map in onnxruntime within {error:.1e} at (batch x H x W) {checked}")
        return 0


@dataclass(frozen=True, kw_only=True)
class App(Registry):
    """Open a web page that predicts a picture and compares models on it."""

    models: Positional[tuple[str, ...]] = ()
    """Folders, archives, addresses, models:/emlnet@ALIAS, ...; default: all of the registry
    and the built-in model."""
    host: str = "127.0.0.1"
    """Address to listen on; the default can be reached only from this machine."""
    port: int = 7860
    """Port to listen on."""
    device: str | None = None
    """`cpu`, `cuda` or `cuda:N`; default: the GPU when there is one."""

    def execute(self) -> int:
        """Serve the page until interrupted."""
        print("loading the page", flush=True)
        from emlnet.app import model_pool, web_page
        from emlnet.inference.predictor import bound_layer_cache

        bound_layer_cache()
        pool = model_pool.ModelPool(
            sources=model_pool.find_sources(self.models, self.tracking_uri),
            tracking_uri=self.tracking_uri,
            device=find_device(self.device),
        )
        web_page.serve(pool, self.host, self.port, lambda line: print(line, flush=True))
        return 0


def find_device(name: str | None) -> str:
    """Return the named device, by default the GPU if there is one; ValueError if unavailable."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not available: {error}") from None
    return name


@dataclass(frozen=True, kw_only=True)
class ImportReference:
    """Package the checkpoints that EML-NET's authors released."""

    files: Positional[tuple[Path, ...]]
    """res_imagenet.pth, res_places.pth, res_decoder.pth, or one encoder's file; then the folder to
    make."""
    size: tuple[int, int] = (480, 640)
    """Height and width in pixels at which the encoders see pictures."""

    def execute(self) -> int:
        """Import the checkpoints and print the result."""
        print("reading the checkpoints", flush=True)
        from emlnet.inference import package
        from emlnet.registry.import_reference import import_reference

        if len(self.files) < 2:
            raise ValueError("name the checkpoints, and then the folder to make")
        *files, folder = self.files
        package.check_target(folder)
        model = import_reference(files, folder, self.size)
        print(f"{type(model).__name__} of {len(files)} files in {folder}")
        return 0


COMMANDS: dict[str, Callable[..., Any]] = {
    "pull": Pull,
    "predict": Predict,
    "export": Export,
    "app": App,
    "import-reference": ImportReference,
}


def parse(argv: list[str]) -> Any:
    """Parse a command line into its command."""
    return subcommand_cli_from_dict(COMMANDS, prog="emlnet", description=__doc__, args=argv)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return exit_code(lambda: parse(sys.argv[1:] if argv is None else argv).execute())


if __name__ == "__main__":
    sys.exit(main())
