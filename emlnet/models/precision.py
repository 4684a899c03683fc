"""Number formats, memory layout, compilation and profiling of training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from emlnet.atomic_files import replace_file

Model = TypeVar("Model", bound=nn.Module)
Precision = Literal["float32", "tf32", "bfloat16"]
"""`float32`.  `tf32`: float32 with matrix products in TF32, on GPUs that have it.
`bfloat16`: backbone and readouts in bfloat16; weights, loss, head and validation in float32."""


def set_precision(precision: Precision) -> None:
    """Set how this process multiplies float32 numbers on a GPU."""
    products = "ieee" if precision == "float32" else "tf32"
    torch.backends.cuda.matmul.fp32_precision = products
    torch.backends.cudnn.conv.fp32_precision = products  # type: ignore[attr-defined]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the autocast context of a training step's forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions; without them float32 is far faster."""
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


def to_channels_last(model: Model, device: torch.device) -> Model:
    """Move the model to a device, in the memory format that its convolutions prefer."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast, for operations that need float32."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # torch.autocast cannot be exported.


def to_float32(features: Tensor) -> Tensor:
    """Return bfloat16 features as float32, others unchanged."""
    return features.float() if features.dtype == torch.bfloat16 else features


def compile_training(model: nn.Module, log: Callable[[str], None]) -> None:
    """Compile the model at its first training step; validation stays uncompiled.

    If compilation fails, the model stays as it is and `log` gets one line.
    """
    plain: Callable[..., Any] = model.forward
    compiled: list[Callable[..., Any]] = [torch.compile(plain)]

    def forward(*inputs: Any) -> Any:
        if model.training and compiled:
            try:
                return compiled[0](*inputs)
            except Exception as error:  # Compilers raise many kinds of errors.
                compiled.clear()
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                log(f"training continues without torch.compile, which failed: {reason}")
        return plain(*inputs)

    model.forward = forward


@contextmanager
def trace(path: Path | None) -> Iterator[Callable[[], None]]:
    """Write a Chrome trace of three training steps, after two warm-up steps.

    path: ends in .json.gz (chrome://tracing and ui.perfetto.dev open it); None writes nothing.
    Yields a function to call after each step.
    """
    if path is None:
        yield lambda: None
        return

    def write(profiler: torch.profiler.profile) -> None:
        with replace_file(path) as temporary:
            profiler.export_chrome_trace(str(temporary))

    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1),
        on_trace_ready=write,
    ) as profiler:
        yield profiler.step
