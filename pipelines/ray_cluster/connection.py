"""Join or start a Ray cluster, and set the environment of its processes."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address

from pipelines.config.options import ClusterOptions
from pipelines.ray_cluster.stop_signal import handle_signals

SECONDS_TO_ANSWER = 5

# Keep freed memory in the process: page faults cost a CPU worker up to half of its time.  Use one
# arena, because training runs in a thread, and a thread's own arena returns large blocks.  Return
# blocks above 32 MiB: if kept, they leave gaps that cost a third more memory.  Backing large blocks
# with huge pages cuts page faults about 40-fold.
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
    cluster: ClusterOptions, *, include_dashboard: bool = False, log_to_driver: bool = True
) -> None:
    """Join the Ray cluster that the config names, or start one on this machine.

    include_dashboard: start a dashboard with a new cluster; Ray Train needs it to free the workers
    of a stopped Tune trial.  log_to_driver: print the output of workers.
    Raises ValueError if no cluster answers at the address.
    """
    if ray.is_initialized():
        return
    for name, value in RAY_ENV.items():
        os.environ.setdefault(name, value)
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    more = {}
    if address == "local":
        more = {"include_dashboard": include_dashboard}
        protect_token(Path.home() / ".ray" / "auth_token")
    try:
        ray.init(
            address=address,
            logging_level=logging.WARNING,
            log_to_driver=log_to_driver,
            # Ray Train warns every second that there is no dashboard.
            logging_config=ray.LoggingConfig(encoding="TEXT", log_level="ERROR"),
            runtime_env={"worker_process_setup_hook": _make_setup_hook()},
            **more,
        )
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise _no_cluster(address, str(error).partition("\n")[0]) from error
    # Ray sets its own level on the root logger too, which would hide our warnings.
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    ray_handlers = logging.getLogger("ray").handlers
    for handler in [handler for handler in root.handlers if handler in ray_handlers]:
        root.removeHandler(handler)
    handle_signals()


def _check_answers(address: str) -> None:
    """Raise ValueError unless a Ray head answers soon; `ray.init` would try for ten minutes."""
    if address.startswith(("http://", "https://")):
        raise _no_cluster(address, "it is a job server's; `python -m pipelines submit` sends jobs")
    try:
        host = canonicalize_bootstrap_address(address.removeprefix("ray://"))
    except (ValueError, ConnectionError, OSError) as error:
        raise _no_cluster(address, str(error).partition("\n")[0]) from error
    if host is None:
        return  # No address: `ray.init` starts a cluster on this machine.
    with init_grpc_channel(host) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=SECONDS_TO_ANSWER)
        except grpc.FutureTimeoutError:
            raise _no_cluster(address, f"tried for {SECONDS_TO_ANSWER} s") from None


def protect_token(path: Path) -> None:
    """Make Ray's token readable for its owner only; Ray would let everybody read it.

    path: where Ray looks for the token if no variable names one.
    """
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}.intersection(os.environ)
    if named or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError), open(path, "x", opener=partial(os.open, mode=0o600)) as file:
        file.write(secrets.token_hex(32))
    path.chmod(0o600)


def _no_cluster(address: str, reason: str) -> ValueError:
    # Remove passwords from both: Ray's reasons repeat the address.
    address, reason = (re.sub(r"[^\s/@]*@|\?\S*", "", text) for text in (address, reason))
    return ValueError(
        f"no Ray cluster answers at {address} ({reason}); give the head's HOST:6379 as --address "
        "or RAY_ADDRESS, or unset both for a cluster of this machine"
    )


def _make_setup_hook() -> Callable[[], None]:
    """Return the setup function of worker processes; nested, so that Ray sends it by value."""

    def setup() -> None:
        import logging
        import os

        import ray

        # Without it, Ray's state API may ask another cluster on this machine.  That cluster does
        # not know the run, so Ray Train removes the run's workers.
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        # Hide this client's warnings: on a busy machine its first request comes too early, and it
        # retries.
        client = "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client"
        logging.getLogger(client).setLevel(logging.ERROR)

    return setup
