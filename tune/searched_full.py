"""A search, then all stages of `pipelines full` with the weights that it found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from emlnet.losses.weighted import LossWeights
from emlnet.training.state import Plan
from pipelines.config.identity import digest
from pipelines.stages import full
from pipelines.stages.run_context import identify, open_run_folder
from shards.files.store import location
from tune.search import loss_weights
from tune.search_config import LossWeightsCommand, SearchedFullCommand, check, check_full
from tune.space import BASELINE_WEIGHTS


def run(command: SearchedFullCommand) -> dict[str, Any]:
    """Search and train, or resume both; return the report of `pipelines full`."""
    check_full(command)
    full_command = command.full
    check(search_command(command, full_command.data[0], Path()))
    source = location(full_command.data[0])
    identity = identify(
        full_command,
        full_command.weights,
        command="tune full",
        data=full.fingerprint(source),
        search=digest(search=command.search.unlimited, on=command.backbone),
    )
    folder = open_run_folder(full_command.tracking.out, "tune-full", identity)
    data = Path(full.pack(source, folder / "shards"))
    search = search_command(command, data, folder / "search")
    best = json.loads(loss_weights(search).read_text())
    # An extended search may find another winner, so the winner names the folder.
    found = digest(weights=best["weights"], other=best["other"])[:8]
    return full.run(with_winner(command, best, data, folder / f"full-{found}"))


def search_command(command: SearchedFullCommand, data: Path, out: Path) -> LossWeightsCommand:
    """Return the command of the search, which tries weights given in the command first."""
    full_command, search = command.full, command.search
    if full_command.plan.loss_weights != BASELINE_WEIGHTS:
        search = replace(search, first=(full_command.plan.loss_weights, *search.first))
    number = full_command.backbones.index(command.backbone)
    return LossWeightsCommand(
        data=data,
        search=search,
        encoder=full_command.encoders()[number],
        finetune=full_command.finetune,
        plan=replace(
            full_command.plan, loss_weights=BASELINE_WEIGHTS, select=Plan().select, guard=()
        ),
        seed=full_command.seed,
        compute=full_command.compute,
        tracking=replace(full_command.tracking, out=out),
    )


def with_winner(command: SearchedFullCommand, best: dict[str, Any], data: Path, out: Path) -> Any:
    """Return the command of `pipelines full` with the winner of best-weights.json."""
    full_command = command.full
    plan = replace(full_command.plan, loss_weights=LossWeights(**best["weights"]))
    if "lr" in best["other"]:
        plan = replace(plan, lr=best["other"]["lr"])
    return replace(
        full_command, data=(data,), plan=plan, tracking=replace(full_command.tracking, out=out)
    )
