"""How a step is made fast: number formats, compilation, and a look at where its time goes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
Precision = Literal["float32", "tf32", "bfloat16"]
"""`float32`.  `tf32`: the same, products rounded to TF32 on a GPU that has it.  `bfloat16`: most
of a training step in bfloat16; weights, loss, head and validation stay in float32."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def set_precision(precision: Precision) -> None:
    """Sets how this process multiplies float32 numbers on a GPU."""
    products = "ieee" if precision == "float32" else "tf32"
    torch.backends.cuda.matmul.fp32_precision = products
    torch.backends.cudnn.conv.fp32_precision = products  # type: ignore[attr-defined]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a training step calls its model."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, without which float32 is far faster."""
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


def lay_out(model: Model, device: torch.device) -> Model:
    """The model on its device, channels last; on a CPU its 1x1 convolutions become dilated.

    With one thread and fewer than 16 pictures torch keeps undilated ones from oneDNN, which takes
    half the time.  Dilation changes nothing for a single tap.
    """
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        dilate_single_taps(model, 2)
    return model


def dilate_single_taps(model: nn.Module, dilation: int) -> None:
    """Sets the dilation of all 1x1 convolutions, which compute the same with any."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.dilation = (dilation, dilation)


def in_full(device: torch.device) -> AbstractContextManager[object]:
    """The context in which nothing is rounded: maps are worth more digits than features."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # An exported model has no such thing in its graph.


def widen(features: Tensor) -> Tensor:
    """Features in bfloat16 as float32; others as they are."""
    return features.float() if features.dtype == torch.bfloat16 else features


def compile_training(model: nn.Module, say: Callable[[str], None]) -> None:
    """Compiles the model's training steps, at the first of them; validation stays as it is.

    Where compilation fails the model goes on as it was, and `say` is given one line.
    """
    plain: Callable[..., Any] = model.forward
    compiled: list[Callable[..., Any]] = [torch.compile(plain)]

    def forward(*inputs: Any) -> Any:
        if model.training and compiled:
            try:
                return compiled[0](*inputs)
            except Exception as error:  # Whatever a compiler raises, training can do without it.
                compiled.clear()
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                say(f"goes on without torch.compile, which failed: {reason}")
        return plain(*inputs)

    model.forward = forward


def keep_memory() -> None:
    """Lets this process keep freed memory for its next batch, where the C library is glibc.

    Without it each batch's activations are given back and faulted in again, page by page: a third
    of the processor time of predictions on a CPU.  Some 0.3 GB more are held.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # Another C library.
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 64 << 20)
        library.mallopt(M_TRIM_THRESHOLD, 256 << 20)


@contextmanager
def trace(path: Path | None) -> Iterator[Callable[[], None]]:
    """Writes a Chrome trace of three training steps, after two that warm up, to `path`.

    path: ends in .json.gz (chrome://tracing and ui.perfetto.dev open it); None traces nothing.
    Yields what is to be called after each step.
    """
    if path is None:
        yield lambda: None
        return

    def write(profiler: torch.profiler.profile) -> None:
        temporary = path.with_name(f"tmp-{path.name}")
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(path)

    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1),
        on_trace_ready=write,
    ) as profiler:
        yield profiler.step
