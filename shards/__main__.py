"""`python -m shards sample | build | verify | show | stats`: data sets as shards."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import tyro

from emlnet.exits import exit_code
from shards.shard_commands import BuildShards, ShardStats, ShowShards, VerifyShards, WriteSample

Command = (
    Annotated[WriteSample, tyro.conf.subcommand("sample")]
    | Annotated[BuildShards, tyro.conf.subcommand("build")]
    | Annotated[VerifyShards, tyro.conf.subcommand("verify")]
    | Annotated[ShowShards, tyro.conf.subcommand("show")]
    | Annotated[ShardStats, tyro.conf.subcommand("stats")]
)


def parse(argv: list[str]) -> Command:
    """Parse the command with its options."""
    return tyro.cli(
        Command,
        prog="python -m shards",
        args=argv,
        description=__doc__,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("shards").setLevel(logging.INFO)
    return exit_code(lambda: parse(sys.argv[1:] if argv is None else argv).run())


if __name__ == "__main__":
    sys.exit(main())
