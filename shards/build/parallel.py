"""A `map` over threads of this machine; results come in any order.

Decoders, encoders and filters release the GIL, so threads run in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class Map(Protocol):
    """Applies a function to items, here or elsewhere, as `map` and Ray tasks do."""

    def __call__(
        self, function: Callable[[Any], Result], items: Iterable[Any], /
    ) -> Iterator[Result]:
        """Return the results, in any order; the first error is raised."""
        ...


def default_num_workers() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def threads(num_workers: int) -> Map:
    """Return a map over that many threads."""

    def run(function: Callable[[Any], Result], items: Iterable[Any], /) -> Iterator[Result]:
        pool = ThreadPoolExecutor(num_workers)
        try:
            for future in as_completed([pool.submit(function, item) for item in items]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    return run
