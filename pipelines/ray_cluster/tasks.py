"""Work that needs no trainer, spread over the cluster as Ray tasks, with progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import torch

from emlnet.models.precision import set_precision
from pipelines.ray_cluster.connection import WORKER_ENV
from pipelines.ray_cluster.sizing import has_gpu
from shards.files.progress import SECONDS_BETWEEN_LINES

Answer = TypeVar("Answer")


def spread(
    function: Callable[..., Answer],
    parts: Sequence[Sequence[int]],
    *shared: Any,
    title: str,
    unit: str = "images",
    use_gpu: bool | None = None,
    num_workers: int = 0,
) -> list[Answer]:
    """Call `function(part, device, *shared)` on each part, many at once; answers in order.

    parts: positions of samples.  shared: sent to each node once.  title, unit: of the progress
    lines.  use_gpu: a GPU for each call; default: when the cluster has one.  num_workers: calls at
    once; 0: as many as the cluster has room for.
    The first error ends all.
    """
    gpu = has_gpu(use_gpu)
    options = {"num_gpus": 1 if gpu else 0, "runtime_env": {"env_vars": WORKER_ENV}}
    references = [ray.put(value) for value in shared]
    calls = [(function, list(part), gpu, *references) for part in parts]
    answers: dict[int, Answer] = {}
    total, done, began = sum(map(len, parts)), 0, time.monotonic()
    last = began
    for number, answer in _run_tasks(_call, calls, num_workers, **options):
        answers[number] = answer
        done += len(parts[number])
        now = time.monotonic()
        if done < total and now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - began) / done * (total - done)
            print(f"{title}: {done}/{total} {unit}, {left:.0f} s left", flush=True)
    print(f"{title}: {total} {unit} in {time.monotonic() - began:.0f} s", flush=True)
    return [answers[number] for number in range(len(parts))]


def each(
    function: Callable[[Any], Answer], items: Iterable[Any], num_workers: int = 0
) -> Iterator[Answer]:
    """Call the function on each item, a CPU for each call; answers as they come, in no order.

    num_workers: calls at once; 0: as many as the cluster has room for.
    The first error ends all.
    """
    for _, answer in _run_tasks(function, [(item,) for item in items], num_workers):
        yield answer


def _run_tasks(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], num_workers: int, **options: Any
) -> Iterator[tuple[int, Any]]:
    """Position and answer of each call, as they come.

    Raises what the first failing call raised; ValueError and OSError without Ray's traceback.
    """
    task = ray.remote(num_cpus=1, max_retries=2, **options)(function)
    waiting = list(enumerate(calls))[::-1]
    pending: dict[ray.ObjectRef, int] = {}
    try:
        while waiting or pending:
            while waiting and len(pending) < (num_workers or len(calls)):
                number, arguments = waiting.pop()
                pending[task.remote(*arguments)] = number
            (done, *_), _ = ray.wait(list(pending))
            answer = ray.get(done)
            yield pending.pop(done), answer
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (ValueError, OSError)):
            raise error.cause from None
        raise
    finally:
        for reference in pending:
            ray.cancel(reference)


def _call(function: Callable[..., Answer], part: list[int], gpu: bool, *shared: Any) -> Answer:
    torch.set_num_threads(1)
    set_precision("float32")
    return function(part, torch.device("cuda" if gpu else "cpu"), *shared)


def split(total: int, length: int) -> list[list[int]]:
    """Positions 0 .. total - 1 in parts of at most `length`."""
    return [list(range(at, min(at + length, total))) for at in range(0, total, length)]
