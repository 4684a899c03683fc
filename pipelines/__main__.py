"""`python -m pipelines encoder | decoder | full | ...`: train, score, register, and look.

`submit` sends a command to a cluster, `jobs` follows it there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from pipelines import (
    backbones,
    boards,
    browse,
    decoding,
    demo,
    encoders,
    full,
    grid,
    jobs,
    packing,
    predict,
    promotion,
    scoring,
    submit,
)
from pipelines.config import DecoderCommand, EncoderCommand, FullCommand, ReadoutsCommand
from pipelines.exits import exit_code
from pipelines.flags import registry, spell_out, take_flag
from pipelines.presets import PRESETS, find_preset

RUN: dict[type, Callable[[Any], object]] = {
    packing.BuildCommand: packing.run,
    EncoderCommand: encoders.run,
    DecoderCommand: decoding.run,
    ReadoutsCommand: decoding.compute,
    scoring.EvaluateCommand: scoring.run_evaluate,
    scoring.ScoreCommand: scoring.run_score,
    scoring.CompareCommand: scoring.run_compare,
    boards.ExportBoardCommand: boards.run,
    FullCommand: full.run,
    demo.DemoCommand: demo.demo,
    submit.SubmitCommand: submit.run,
    jobs.JobsCommand: jobs.run,
    backbones.BackbonesCommand: backbones.run,
    grid.GridCommand: grid.run,
    promotion.PromoteCommand: promotion.promote,
    promotion.RollbackCommand: promotion.rollback,
    predict.PredictCommand: predict.run,
    browse.UiCommand: browse.ui,
    browse.RunsCommand: browse.list_runs,
}
VERBS = (
    "build",
    "encoder",
    "decoder",
    "readouts",
    "evaluate",
    "score",
    "compare",
    "export-board",
    "full",
    "demo",
    "backbones",
    "grid",
    "promote",
    "rollback",
    "predict",
    "runs",
)
"""The commands that can be sent to a cluster."""


def parse(argv: list[str]) -> object:
    """A command's config from its arguments.  Raises ValueError for an unknown preset."""
    if argv[:1] == ["submit"]:
        return parse_submit(argv[1:])
    preset, argv = take_flag(argv, "--preset")
    if preset is not None and (not argv or argv[0] != "full"):
        raise ValueError("--preset goes with `full`")
    described = f"{FullCommand.__doc__} --preset NAME starts from {', '.join(PRESETS)}."
    start: dict[str, Any] = {} if preset is None else {"default": find_preset(preset)}
    full_command: Any = Annotated[FullCommand, subcommand("full", description=described, **start)]
    command: Any = (
        Annotated[packing.BuildCommand, subcommand("build")]
        | Annotated[EncoderCommand, subcommand("encoder")]
        | Annotated[DecoderCommand, subcommand("decoder")]
        | Annotated[ReadoutsCommand, subcommand("readouts")]
        | Annotated[scoring.EvaluateCommand, subcommand("evaluate")]
        | Annotated[scoring.ScoreCommand, subcommand("score")]
        | Annotated[scoring.CompareCommand, subcommand("compare")]
        | Annotated[boards.ExportBoardCommand, subcommand("export-board")]
        | full_command
        | Annotated[demo.DemoCommand, subcommand("demo")]
        | Annotated[submit.SubmitCommand, subcommand("submit")]
        | Annotated[jobs.JobsCommand, subcommand("jobs")]
        | Annotated[backbones.BackbonesCommand, subcommand("backbones")]
        | Annotated[grid.GridCommand, subcommand("grid")]
        | Annotated[promotion.PromoteCommand, subcommand("promote")]
        | Annotated[promotion.RollbackCommand, subcommand("rollback")]
        | Annotated[predict.PredictCommand, subcommand("predict")]
        | Annotated[browse.UiCommand, subcommand("ui")]
        | Annotated[browse.RunsCommand, subcommand("runs")]
    )
    return tyro.cli(
        command,
        prog="python -m pipelines",
        args=spell_out(argv),
        description=__doc__,
        registry=registry(argv),
    )


def parse_submit(argv: list[str]) -> submit.SubmitCommand:
    """What follows `submit`: its own flags, then a command, which must parse too."""
    own, sent = submit.split(argv, VERBS)
    sent = sent[1:] if sent[:1] == ["pipelines"] else sent
    if sent and sent[0] in VERBS:
        parse(sent)
    prog = "python -m pipelines submit [flags] COMMAND ..."
    return replace(tyro.cli(submit.SubmitCommand, prog=prog, args=own), command=tuple(sent))


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    `submit` and `jobs logs` exit with the job's own code, 1 for a job that was stopped.
    """

    def run() -> object:
        command = parse(sys.argv[1:] if argv is None else argv)
        return RUN[type(command)](command)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
