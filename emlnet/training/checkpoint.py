"""Save and load training states; a resumed run is bit-equal to an uninterrupted one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from emlnet.atomic_files import replace_file
from emlnet.backbones import check_keys
from emlnet.training.state import EpochReport, TrainState, trainable, trained_weights, unwrap

FILE = "state.pt"


def random_state() -> dict[str, Any]:
    """Return torch's random states in this process; training uses no other generator."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the result of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save(state: TrainState, folder: Path | None) -> None:
    """Save a state in an existing folder, whole or not at all.

    Every rank must call it, since each has its own random state.  Rank 0 passes the folder, the
    others None.
    """
    states: list[Any] = [random_state()]
    if dist.is_initialized():
        states = [None] * dist.get_world_size()
        dist.all_gather_object(states, random_state())
    if folder is None:
        return
    average = state.average
    content = {
        "model": trained_weights(state.model),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "loss_sums": state.loss_sums,
        "skipped": state.skipped,
        "history": [asdict(report) for report in state.history],
        "average": None if average is None else trained_weights(average),
        "num_averaged": None if average is None else average.n_averaged,
        "best_weights": state.best_weights,
        "random": states,
    }
    with replace_file(folder / FILE) as temporary:
        torch.save(content, temporary)


def read(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's content, on the CPU.  Raises ValueError if it is missing or broken."""
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a whole checkpoint: {error}") from error
    return content


def load(state: TrainState, folder: Path, rank: int = 0) -> None:
    """Load a checkpoint into a fresh state of the same model and plan.

    rank: restore this rank's random state; keep the present one if the checkpoint lacks the rank.
    Raises ValueError if the checkpoint is missing, broken, or another model's.
    """
    content = read(folder)
    check_keys(trained_weights(state.model), content["model"], str(folder / FILE))
    unwrap(state.model).load_state_dict(content["model"], strict=False)
    state.optimizer.load_state_dict(content["optimizer"])
    state.schedule.load_state_dict(content["schedule"])
    state.epoch, state.step = content["epoch"], content["step"]
    state.skipped = content["skipped"]
    state.history = [EpochReport(**report) for report in content["history"]]
    sums = content["loss_sums"]
    state.loss_sums = None if sums is None else sums.to(trainable(state.model)[0].device)
    if state.average is not None:
        unwrap(state.average).load_state_dict(content["average"], strict=False)
        state.average.n_averaged.copy_(content["num_averaged"])
    state.best_weights = content["best_weights"]
    if rank < len(content["random"]):
        set_random_state(content["random"][rank])
