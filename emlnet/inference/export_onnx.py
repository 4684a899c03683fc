"""`emlnet export`: write a model as ONNX, checked in onnxruntime before it gets its name."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emlnet.atomic_files import replace_file
from emlnet.data.maps import min_max, to_density
from emlnet.extras import require_extra
from emlnet.inference.package import Package
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder

OPSET, TRACED_OPSET = 20, 18
"""ONNX opsets for a fixed size, and for any size."""
TOLERANCE = 1e-4
"""Largest allowed difference between the maps of torch and onnxruntime, min-max to 0..1."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX file.

    size: (H, W) in pixels of its input.  shapes: (B, H, W) at which it was checked.
    error: the largest difference found, of maps in 0..1.
    """

    path: Path
    opset: int
    size: tuple[int, int]
    shapes: tuple[tuple[int, int, int], ...]
    error: float


class DensityModel(nn.Module):
    """A model that returns a density: (B, 3, H, W) in 0..1 to (B, 1, H, W), sums to 1."""

    def __init__(self, model: EMLNet | Encoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Map pictures (B, 3, H, W) in 0..1 to densities (B, 1, H, W)."""
        return to_density(self.model(image), self.model.kind)


def export_onnx(package: Package, path: Path, dynamic_size: bool = False) -> Exported:
    """Write a model as ONNX: `image` (B, 3, H, W) float32 in 0..1 to `density` (B, 1, H, W).

    The batch may have any size.  Height and width are those of the first encoder; with
    `dynamic_size` they are those of the picture, which the backbones see as it is.  That works best
    at about the area of the encoder's size, in steps of 32 pixels.
    Raises ValueError, and leaves no file, when a package is missing, the model cannot be exported,
    or onnxruntime's map differs by more than TOLERANCE.
    """
    require_extra("onnx", "onnx", "onnxscript", "onnxruntime")
    size = package.encoders[0].config.size
    if dynamic_size:
        check_dynamic(package)
    # The wrapper too is in eval mode: the traced exporter restores its mode afterwards.
    model = DensityModel(copy.deepcopy(package.model).cpu().float()).eval()
    if dynamic_size:
        for encoder in Package(model=model.model).encoders:
            # A picture is not resized.
            encoder.input_size = lambda size: size  # type: ignore[method-assign]
    with replace_file(path) as temporary:
        with quiet():
            _write(model, size, temporary, dynamic_size)
        _describe(temporary, package, size, dynamic_size)
        shapes = check_shapes(size, dynamic_size)
        error = compare(model, temporary, shapes)
        if not error <= TOLERANCE:
            raise ValueError(
                f"onnxruntime's map differs by {error:.1e}, over {TOLERANCE:.0e}; not exported"
                + (", leave out --dynamic-size" if dynamic_size else "")
            )
    opset = TRACED_OPSET if dynamic_size else OPSET
    return Exported(path=path, opset=opset, size=size, shapes=tuple(shapes), error=error)


def check_dynamic(package: Package) -> None:
    """Raise ValueError for a model that cannot see pictures of any size as they are."""
    if any(encoder.kind == "eml" for encoder in package.encoders):
        raise ValueError("an `eml` encoder stretches pictures to one size; drop --dynamic-size")
    if any(encoder.config.letterbox for encoder in package.encoders):
        raise ValueError("its encoders letterbox pictures to one size; drop --dynamic-size")
    sizes = {encoder.config.size for encoder in package.encoders}
    if len(sizes) > 1:
        raise ValueError(
            f"its encoders see pictures at different sizes {sorted(sizes)}; drop --dynamic-size"
        )


def check_shapes(size: tuple[int, int], dynamic_size: bool) -> list[tuple[int, int, int]]:
    """Return the (B, H, W) at which an export is checked."""
    shapes = [(1, *size), (3, *size)]
    if dynamic_size:
        side = 32 * round(math.sqrt(size[0] * size[1]) / 32)
        shapes += [(2, size[1], size[0]), (1, side, side), (1, max(32, side - 32), side + 64)]
    return shapes


def compare(model: nn.Module, path: Path, shapes: Sequence[tuple[int, int, int]]) -> float:
    """Return the largest difference between the maps of torch and onnxruntime, min-max to 0..1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    errors = []
    for batch, height, width in shapes:
        # Spots of colour: the map of plain noise would be flat.
        coarse = torch.rand(batch, 3, 6, 8, generator=generator)
        image = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        with torch.inference_mode():
            expected = min_max(model(image)).numpy()
        (found,) = session.run(None, {"image": image.numpy()})
        errors.append(float(np.abs(min_max(torch.from_numpy(found)).numpy() - expected).max()))
    return float(np.max(errors))  # A NaN stays one.


def _write(model: DensityModel, size: tuple[int, int], path: Path, dynamic_size: bool) -> None:
    example = torch.rand(2, 3, *size)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["density"]}
    try:
        if dynamic_size:
            # The newer exporter spends minutes on symbolic sizes, this one seconds.
            _export_traced(model, example, path, names)
        else:
            torch.onnx.export(
                model,
                (example,),
                str(path),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
                external_data=False,
                verbose=False,
                **names,
            )
    except Exception as error:  # The exporters raise whatever their passes do.
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the model cannot be exported: {reason}") from error


def _export_traced(model: DensityModel, example: Tensor, path: Path, names: dict[str, Any]) -> None:
    from torch.onnx import (  # type: ignore[attr-defined]
        register_custom_op_symbolic,
        unregister_custom_op_symbolic,
    )

    resizes = {
        "aten::_upsample_bilinear2d_aa": partial(_smooth_resize, mode="linear"),
        "aten::_upsample_bicubic2d_aa": partial(_smooth_resize, mode="cubic"),
    }
    for name, symbolic in resizes.items():
        register_custom_op_symbolic(name, symbolic, TRACED_OPSET)
    axes = {0: "batch", 2: "height", 3: "width"}
    try:
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=False,
            opset_version=TRACED_OPSET,
            dynamic_axes={"image": axes, "density": axes},
            **names,
        )
    finally:
        for name in resizes:
            unregister_custom_op_symbolic(name, TRACED_OPSET)


def _smooth_resize(
    g: Any, image: Any, size: Any, align_corners: Any, *scales: Any, mode: str
) -> Any:
    """Express torch's antialiased resize, which the traced exporter lacks, as ONNX's Resize."""
    from torch.onnx import symbolic_helper

    if symbolic_helper._is_packed_list(size):
        parts = [
            symbolic_helper._unsqueeze_helper(g, part, [0])
            if symbolic_helper._get_tensor_rank(part) == 0
            else part
            for part in symbolic_helper._unpack_list(size)
        ]
        size = g.op("Concat", *parts, axis_i=0)
    whole = g.op("Shape", image)
    kept = symbolic_helper._slice_helper(g, whole, axes=[0], starts=[0], ends=[2])
    target = g.op("Concat", kept, g.op("Cast", size, to_i=7), axis_i=0)
    none = g.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
    return g.op(
        "Resize",
        image,
        none,
        none,
        target,
        antialias_i=1,
        exclude_outside_i=1,
        mode_s=mode,
        cubic_coeff_a_f=-0.5,
        coordinate_transformation_mode_s="half_pixel",
    )


def _describe(path: Path, package: Package, size: tuple[int, int], dynamic_size: bool) -> None:
    """Write name, size and licence into the file."""
    import onnx

    model = onnx.load(str(path))
    about = {
        "name": str(package.about.get("name", "emlnet")),
        "size": "picture's" if dynamic_size else f"{size[0]} x {size[1]}",
        "licence": str(package.about.get("licence", "unknown")),
    }
    onnx.helper.set_model_props(model, about)
    onnx.save(model, str(path))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' warnings, which are about their own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
