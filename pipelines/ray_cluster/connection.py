"""Joining or starting a Ray cluster, and the environment of its processes."""

from __future__ import annotations

import logging
import os

import ray

from pipelines.config.options import Cluster
from pipelines.ray_cluster.stop_signal import handle_termination

# Freed memory stays with the process, in one arena (training runs in a thread, whose own arena
# would give large blocks back): page faults cost a CPU worker up to half of its time.  Blocks of
# more than 32 MiB do go back: kept, they leave gaps that cost a third more memory.  They come
# again in huge pages, of which a large model's step takes a fortieth as many.
WORKER_ENV = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(10**11),
}
RAY_ENV = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
}


def connect(
    compute: Cluster, *, include_dashboard: bool = False, log_to_driver: bool = True
) -> None:
    """Joins the Ray cluster that the config names, or starts one on this machine.

    include_dashboard: of a cluster that is started; Ray Train frees the workers of a run that was
    killed only where there is one.  log_to_driver: print what workers print.
    """
    if ray.is_initialized():
        return
    for name, value in RAY_ENV.items():
        os.environ.setdefault(name, value)
    address = compute.address or os.environ.get("RAY_ADDRESS") or "local"
    more = {"include_dashboard": include_dashboard} if address == "local" else {}
    try:
        ray.init(
            address=address,
            logging_level=logging.WARNING,
            log_to_driver=log_to_driver,
            # Each second a warning that a dashboard, which nobody asked for, is not there.
            logging_config=ray.LoggingConfig(encoding="TEXT", log_level="ERROR"),
            **more,
        )
    except ConnectionError as error:
        raise ValueError(f"no Ray cluster answers at {address}: {error}") from error
    handle_termination()
