"""Run functions over the cluster as Ray tasks, with progress lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import torch

from emlnet.models.precision import set_precision
from pipelines.ray_cluster.connection import WORKER_ENV
from pipelines.ray_cluster.sizing import has_gpu
from shards.files.progress import progress_bar

Answer = TypeVar("Answer")


def map_parts(
    function: Callable[..., Answer],
    parts: Sequence[Sequence[int]],
    *shared: Any,
    title: str,
    unit: str = "image",
    use_gpu: bool | None = None,
    num_workers: int = 0,
) -> list[Answer]:
    """Call `function(part, device, *shared)` on each part in parallel; return results in order.

    parts: positions of samples.  shared: sent to each node once.  title, unit: shown in progress
    lines.  use_gpu: one GPU per call; default: if the cluster has any.  num_workers: parallel
    calls; 0: as many as fit the cluster.  The first error ends all calls.
    """
    gpu = has_gpu(use_gpu)
    device, references = "cuda" if gpu else "cpu", [ray.put(value) for value in shared]

    def call(task: tuple[int, Sequence[int], list[ray.ObjectRef]]) -> tuple[int, Answer]:
        torch.set_num_threads(1)
        set_precision("float32")
        number, part, references = task
        return number, function(list(part), torch.device(device), *ray.get(references))

    answers: dict[int, Answer] = {}
    total, began = sum(map(len, parts)), time.monotonic()
    items = [(number, part, references) for number, part in enumerate(parts)]
    options = {"num_gpus": int(gpu), "runtime_env": {"env_vars": WORKER_ENV}}
    with progress_bar(total, title, unit) as bar:
        for number, answer in map_unordered(call, items, num_workers, **options):
            answers[number] = answer
            bar.update(len(parts[number]))
    print(f"{title}: {total} {unit}s in {time.monotonic() - began:.0f} s", flush=True)
    return [answers[number] for number in range(len(parts))]


def map_unordered(
    function: Callable[[Any], Answer], items: Iterable[Any], num_workers: int = 0, **options: Any
) -> Iterator[Answer]:
    """Call the function on each item, one CPU per call; yield results as they finish.

    num_workers: parallel calls; 0: as many as fit the cluster.  options: passed to Ray's tasks.
    Raises the error of the first call that fails; ValueError and OSError without Ray's traceback.
    """
    task = ray.remote(num_cpus=1, max_retries=2, **options)(function)
    waiting = list(items)[::-1]
    at_once = num_workers or len(waiting)
    pending: list[ray.ObjectRef] = []
    try:
        while waiting or pending:
            while waiting and len(pending) < at_once:
                pending.append(task.remote(waiting.pop()))
            (done,), pending = ray.wait(pending)
            yield ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (ValueError, OSError)):
            raise error.cause from None
        raise
    finally:
        for reference in pending:
            ray.cancel(reference)


def split(total: int, length: int) -> list[list[int]]:
    """Return positions 0 .. total - 1 in parts of at most `length`."""
    return [list(range(at, min(at + length, total))) for at in range(0, total, length)]
