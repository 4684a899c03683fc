"""`emlnet export`: write a model as ONNX and check it in onnxruntime."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx import (  # type: ignore[attr-defined]
    register_custom_op_symbolic,
    symbolic_helper,
    unregister_custom_op_symbolic,
)

from emlnet.atomic_files import replace_file
from emlnet.data.maps import min_max, to_density
from emlnet.extras import require_extra
from emlnet.inference.package import Package
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder

OPSET = 18
TOLERANCE = 1e-4
"""Largest allowed difference between the maps of torch and onnxruntime, scaled to 0..1."""
Shape = tuple[int, int, int]
"""(B, H, W)"""


class DensityModel(nn.Module):
    """A model that returns a density: (B, 3, H, W) in 0..1 to (B, 1, H, W), sums to 1."""

    def __init__(self, model: EMLNet | Encoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Map pictures (B, 3, H, W) in 0..1 to densities (B, 1, H, W)."""
        return to_density(self.model(image), self.model.kind)


def export_onnx(
    package: Package, path: Path, dynamic_size: bool = False
) -> tuple[list[Shape], float]:
    """Write a model as ONNX: `image` (B, 3, H, W) float32 in 0..1 to `density` (B, 1, H, W).

    The batch may have any size; height and width are those of the first encoder.
    dynamic_size: the exported model takes pictures of any size and does not resize them.  Best are
    sides that are multiples of 32 pixels and an area close to that of the encoder's size.
    Returns the checked shapes and the largest difference of the maps, scaled to 0..1.
    Raises ValueError, and leaves no file, if a Python package is missing, the model cannot be
    exported, or the difference exceeds TOLERANCE.
    """
    require_extra("onnx", "onnx", "onnxscript", "onnxruntime")
    height, width = package.encoders[0].config.size
    shapes = [(1, height, width), (3, height, width)]
    # Eval mode for the wrapper, too: the traced exporter restores the wrapper's mode at the end.
    model = DensityModel(copy.deepcopy(package.model).cpu().float()).eval()
    if dynamic_size:
        check_dynamic(package)
        for encoder in Package(model=model.model).encoders:
            # Do not resize pictures.
            encoder.input_size = lambda size: size  # type: ignore[method-assign]
        side = 32 * round(math.sqrt(height * width) / 32)
        shapes += [(2, width, height), (1, side, side), (1, max(32, side - 32), side + 64)]
    with replace_file(path) as temporary:
        print("writing the model as ONNX", flush=True)
        with quiet():
            _write(model, (height, width), temporary, dynamic_size)
        size = "picture's" if dynamic_size else f"{height} x {width}"
        _describe(temporary, {**package.about, "size": size})
        print("comparing it with the model in onnxruntime", flush=True)
        error = compare(model, temporary, shapes)
        if not error <= TOLERANCE:
            raise ValueError(
                f"onnxruntime's map differs by {error:.1e}, over {TOLERANCE:.0e}; not exported"
                + (", leave out --dynamic-size" if dynamic_size else "")
            )
    return shapes, error


def check_dynamic(package: Package) -> None:
    """Raise ValueError for a model that cannot take pictures of any size without resizing."""
    configs = [encoder.config for encoder in package.encoders]
    sizes = {config.size for config in configs}
    problem = "see pictures at different sizes" if len(sizes) > 1 else ""
    if any(config.letterbox for config in configs):
        problem = "letterbox pictures to one size"
    if any(config.readout == "eml" for config in configs):
        problem = "are of kind `eml`, which stretches pictures to one size"
    if problem:
        raise ValueError(f"the model's encoders {problem} ({sorted(sizes)}); drop --dynamic-size")


def compare(model: nn.Module, path: Path, shapes: Sequence[Shape]) -> float:
    """Return the largest difference between the maps of torch and onnxruntime, scaled to 0..1."""
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
    return float(np.max(errors))  # Python's max may drop a NaN.


def _write(model: DensityModel, size: tuple[int, int], path: Path, dynamic_size: bool) -> None:
    example = (torch.rand(2, 3, *size),)
    options: dict[str, Any] = {
        "input_names": ["image"], "output_names": ["density"], "opset_version": OPSET
    }  # fmt: skip
    if dynamic_size:
        # With symbolic sizes, this exporter takes seconds and the newer one minutes.
        axes = {0: "batch", 2: "height", 3: "width"}
        options |= {"dynamo": False, "dynamic_axes": {"image": axes, "density": axes}}
    else:
        batch = {"image": {0: torch.export.Dim("batch", min=1)}}
        options |= {"dynamo": True, "dynamic_shapes": batch, "external_data": False}
    missing_ops: dict[str, Callable[..., Any]] = {
        f"aten::_upsample_bi{mode}2d_aa": partial(_smooth_resize, mode=mode)
        for mode in ("linear", "cubic")
    }
    missing_ops["aten::feature_dropout"] = lambda g, features, *_: features
    for name, symbolic in missing_ops.items():
        register_custom_op_symbolic(name, symbolic, OPSET)
    try:
        torch.onnx.export(model, example, str(path), verbose=False, **options)
    except Exception as error:  # Exporters raise errors of many kinds.
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the model cannot be exported: {reason}") from error
    finally:
        for name in missing_ops:
            unregister_custom_op_symbolic(name, OPSET)


def _smooth_resize(
    g: Any, image: Any, size: Any, align_corners: Any, *scales: Any, mode: str
) -> Any:
    """Express torch's antialiased resize as ONNX's Resize, for the traced exporter."""
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


def _describe(path: Path, about: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load(str(path))
    known = {name: str(about.get(name, "unknown")) for name in ("name", "size", "licence")}
    onnx.helper.set_model_props(model, known)
    onnx.save(model, str(path))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' warnings about their own internals."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
