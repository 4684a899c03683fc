"""A `map` over processes of this machine; results come as they are done, in no order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Map(Protocol):
    """Applies a function to items, here or elsewhere: `map` does, and so may Ray's tasks."""

    def __call__(
        self, function: Callable[[Any], Result], items: Iterable[Any], /
    ) -> Iterator[Result]:
        """The results, in any order; the first error is raised."""
        ...


def default_num_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def processes(num_workers: int) -> Iterator[Map]:
    """A map over that many processes; over this one when it is 1.

    Raises ChildProcessError when one of them is killed.
    """
    if num_workers < 1:
        raise ValueError(f"a build takes at least 1 process, not {num_workers}")
    if num_workers == 1:
        yield map
        return
    # To fork a process with threads (Ray's, torch's) can deadlock. Torch is imported once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shards.build.parts"])
    with ProcessPoolExecutor(num_workers, context, _start, (dict(os.environ),)) as pool:

        def run(function: Callable[[Any], Result], items: Iterable[Any], /) -> Iterator[Result]:
            futures = [pool.submit(function, item) for item in items]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "a process was killed, perhaps for want of memory; take fewer with "
                    "--num-workers"
                ) from error
            finally:
                for future in futures:
                    future.cancel()

        yield run


def _start(environment: dict[str, str]) -> None:
    """Takes over the parent's environment, and ends with it: it may be killed and say nothing.

    The server that processes are forked from keeps the environment of when it started.
    """
    os.environ.clear()
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
