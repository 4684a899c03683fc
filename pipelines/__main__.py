"""`python -m pipelines encoder | decoder | evaluate | full | demo`: train, score, register."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import tyro
from mlflow.exceptions import MlflowException
from tyro.conf import subcommand

from pipelines import decoder, demo, encoders, evaluation, full
from pipelines.config import (
    DecoderCommand,
    EncoderCommand,
    EvaluateCommand,
    FullCommand,
    registry,
    spell_out,
    split_preset,
)
from pipelines.presets import PRESETS, find_preset

RUN: dict[type, Callable[[Any], object]] = {
    EncoderCommand: encoders.run,
    DecoderCommand: decoder.run,
    EvaluateCommand: evaluation.run,
    FullCommand: full.run,
    demo.DemoCommand: demo.demo,
}


def parse(argv: list[str]) -> object:
    """A command's config from its arguments.  Raises ValueError for an unknown preset."""
    preset, argv = split_preset(argv)
    if preset is not None and (not argv or argv[0] != "full"):
        raise ValueError("--preset goes with `full`")
    described = f"{FullCommand.__doc__} --preset NAME starts from {', '.join(PRESETS)}."
    start: dict[str, Any] = {} if preset is None else {"default": find_preset(preset)}
    full_command: Any = Annotated[FullCommand, subcommand("full", description=described, **start)]
    command: Any = (
        Annotated[EncoderCommand, subcommand("encoder")]
        | Annotated[DecoderCommand, subcommand("decoder")]
        | Annotated[EvaluateCommand, subcommand("evaluate")]
        | full_command
        | Annotated[demo.DemoCommand, subcommand("demo")]
    )
    return tyro.cli(
        command,
        prog="python -m pipelines",
        args=spell_out(argv),
        description=__doc__,
        registry=registry(),
    )


def main(argv: list[str] | None = None) -> int:
    """Runs one command; a user's error is one line on stderr and exit code 1."""
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
        RUN[type(command)](command)
    except (ValueError, RuntimeError, OSError, MlflowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
