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

from pipelines.command_line import exit_code
from pipelines.commands.evaluating import export_board, list_backbones, map_grid, score_models
from pipelines.commands.models import browse_runs, predict_pictures, promote_version
from pipelines.commands.training import jobs, make_demo, submit_job, train_decoder
from pipelines.config.flags import registry, spell_out, take_flag
from pipelines.config.options import DecoderCommand, EncoderCommand, FullCommand, ReadoutsCommand
from pipelines.config.presets import PRESETS, find_preset
from pipelines.stages import encoder_stage, full, packing

RUN: dict[type, Callable[[Any], object]] = {
    packing.BuildCommand: packing.run,
    EncoderCommand: encoder_stage.run,
    DecoderCommand: train_decoder.run,
    ReadoutsCommand: train_decoder.compute,
    score_models.EvaluateCommand: score_models.run_evaluate,
    score_models.ScoreCommand: score_models.run_score,
    score_models.CompareCommand: score_models.run_compare,
    export_board.ExportBoardCommand: export_board.run,
    FullCommand: full.run,
    make_demo.DemoCommand: make_demo.demo,
    submit_job.SubmitCommand: submit_job.run,
    jobs.JobsCommand: jobs.run,
    list_backbones.BackbonesCommand: list_backbones.run,
    map_grid.GridCommand: map_grid.run,
    promote_version.PromoteCommand: promote_version.promote,
    promote_version.RollbackCommand: promote_version.rollback,
    predict_pictures.PredictCommand: predict_pictures.run,
    browse_runs.UiCommand: browse_runs.ui,
    browse_runs.RunsCommand: browse_runs.list_runs,
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
        | Annotated[score_models.EvaluateCommand, subcommand("evaluate")]
        | Annotated[score_models.ScoreCommand, subcommand("score")]
        | Annotated[score_models.CompareCommand, subcommand("compare")]
        | Annotated[export_board.ExportBoardCommand, subcommand("export-board")]
        | full_command
        | Annotated[make_demo.DemoCommand, subcommand("demo")]
        | Annotated[submit_job.SubmitCommand, subcommand("submit")]
        | Annotated[jobs.JobsCommand, subcommand("jobs")]
        | Annotated[list_backbones.BackbonesCommand, subcommand("backbones")]
        | Annotated[map_grid.GridCommand, subcommand("grid")]
        | Annotated[promote_version.PromoteCommand, subcommand("promote")]
        | Annotated[promote_version.RollbackCommand, subcommand("rollback")]
        | Annotated[predict_pictures.PredictCommand, subcommand("predict")]
        | Annotated[browse_runs.UiCommand, subcommand("ui")]
        | Annotated[browse_runs.RunsCommand, subcommand("runs")]
    )
    return tyro.cli(
        command,
        prog="python -m pipelines",
        args=spell_out(argv),
        description=__doc__,
        registry=registry(argv),
    )


def parse_submit(argv: list[str]) -> submit_job.SubmitCommand:
    """What follows `submit`: its own flags, then a command, which must parse too."""
    own, sent = submit_job.split(argv, VERBS)
    sent = sent[1:] if sent[:1] == ["pipelines"] else sent
    if sent and sent[0] in VERBS:
        parse(sent)
    prog = "python -m pipelines submit [flags] COMMAND ..."
    return replace(tyro.cli(submit_job.SubmitCommand, prog=prog, args=own), command=tuple(sent))


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
