"""`python -m tune loss-weights | full`: find the loss weights that serve a model best."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from pipelines.command_line import exit_code
from pipelines.config.flags import registry, spell_out, take_flag
from pipelines.config.options import DECODER_PLAN
from pipelines.config.presets import PRESETS, find_preset
from tune import searched_full
from tune.search import loss_weights
from tune.search_config import LossWeightsCommand, SearchedFullCommand


def parse(argv: list[str]) -> LossWeightsCommand | SearchedFullCommand:
    """A command's config from its arguments.  Raises ValueError for an unknown preset."""
    preset, argv = take_flag(argv, "--preset")
    if preset is not None and argv[:1] != ["full"]:
        raise ValueError("--preset goes with `full`")
    search: dict[str, Any] = {}
    if any(word.partition("=")[0] == "--decoder" for word in argv):
        plan = replace(DECODER_PLAN, guard=())
        search = {"default": LossWeightsCommand(data=tyro.MISSING, plan=plan)}
    whole = {} if preset is None else vars(find_preset(preset))
    start = SearchedFullCommand(**{"data": tyro.MISSING, **whole})
    described = f"{SearchedFullCommand.__doc__} --preset NAME starts from {', '.join(PRESETS)}."
    searched: Any = Annotated[LossWeightsCommand, subcommand("loss-weights", **search)]
    full_command: Any = Annotated[
        SearchedFullCommand, subcommand("full", description=described, default=start)
    ]
    command = tyro.cli(
        searched | full_command,
        prog="python -m tune",
        args=spell_out(argv),
        description=__doc__,
        registry=registry(argv),
    )
    assert isinstance(command, LossWeightsCommand | SearchedFullCommand)
    return command


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""

    def run() -> None:
        command = parse(sys.argv[1:] if argv is None else argv)
        if isinstance(command, SearchedFullCommand):
            searched_full.run(command)
        else:
            loss_weights(command)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
