"""Work that needs no trainer, spread over the cluster as Ray tasks, with progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import torch

from emlnet.models.precision import set_precision
from pipelines.ray_cluster.connection import WORKER_ENV

Answer = TypeVar("Answer")
SECONDS_BETWEEN_LINES = 10


def spread(
    function: Callable[..., Answer],
    parts: Sequence[Sequence[int]],
    *shared: Any,
    title: str,
    unit: str = "images",
    use_gpu: bool | None = None,
    num_workers: int = 0,
) -> list[Answer]:
    """Calls `function(part, device, *shared)` on each part, many at once; answers in order.

    parts: positions of samples.  shared: sent to each node once.  title, unit: of the progress
    lines.
    use_gpu: a GPU for each call; default: when the cluster has one.  num_workers: calls at once; 0:
    as many as the cluster has room for.
    An error in one call ends all.
    """
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    gpu = has_gpu if use_gpu is None else use_gpu
    if gpu and not has_gpu:
        raise ValueError("the cluster has no GPU; drop --use-gpu")
    call = ray.remote(
        num_cpus=1, num_gpus=1 if gpu else 0, runtime_env={"env_vars": WORKER_ENV}, max_retries=2
    )(_call)
    references = [ray.put(value) for value in shared]
    sizes: dict[ray.ObjectRef, int] = {}
    pending: list[ray.ObjectRef] = []
    total, done, began, last = sum(map(len, parts)), 0, time.monotonic(), time.monotonic()
    while len(sizes) < len(parts) or pending:
        for part in parts[len(sizes) : len(sizes) + (num_workers or len(parts)) - len(pending)]:
            pending.append(call.remote(function, list(part), gpu, *references))
            sizes[pending[-1]] = len(part)
        finished, pending = ray.wait(pending, timeout=1)
        for reference in finished:
            _check(reference)
            done += sizes[reference]
        if pending and time.monotonic() - last >= SECONDS_BETWEEN_LINES and done:
            last = time.monotonic()
            left = (last - began) / done * (total - done)
            print(f"{title}: {done}/{total} {unit}, {left:.0f} s left", flush=True)
    seconds = time.monotonic() - began
    print(f"{title}: {total} {unit} in {seconds:.0f} s", flush=True)
    answers: list[Answer] = ray.get(list(sizes))
    return answers


def each(
    function: Callable[[Any], Answer], items: Iterable[Any], num_workers: int = 0
) -> Iterator[Answer]:
    """Calls the function on each item, a CPU for each call; answers as they come, in no order.

    num_workers: calls at once; 0: as many as the cluster has room for.
    The first error ends all, a user's (ValueError, OSError) without the traces of Ray.
    """
    call = ray.remote(num_cpus=1, max_retries=2)(function)
    waiting = list(reversed(list(items)))
    limit = num_workers or len(waiting)
    pending: list[ray.ObjectRef] = []
    try:
        while waiting or pending:
            while waiting and len(pending) < limit:
                pending.append(call.remote(waiting.pop()))
            (done, *_), pending = ray.wait(pending)
            _check(done)
            yield ray.get(done)
    finally:
        for reference in pending:
            ray.cancel(reference)


def _check(reference: ray.ObjectRef) -> None:
    """Raises what a call raised; what speaks to users without the traces of Ray."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (ValueError, OSError)):
            raise error.cause from None
        raise


def _call(function: Callable[..., Answer], part: list[int], gpu: bool, *shared: Any) -> Answer:
    torch.set_num_threads(1)
    set_precision("float32")
    return function(part, torch.device("cuda" if gpu else "cpu"), *shared)


def split(total: int, length: int) -> list[list[int]]:
    """Positions 0 .. total - 1 in parts of at most `length`."""
    return [list(range(at, min(at + length, total))) for at in range(0, total, length)]
