"""`python -m tune loss-weights`: find the loss weights that serve an encoder best."""

from __future__ import annotations

import sys

from tyro.extras import subcommand_cli_from_dict

from emlnet.finite import DivergedError
from pipelines.config import registry, spell_out
from tune.config import LossWeightsCommand
from tune.search import loss_weights


def parse(argv: list[str]) -> LossWeightsCommand:
    """A command's config from its arguments."""
    command = subcommand_cli_from_dict(
        {"loss-weights": LossWeightsCommand},
        prog="python -m tune",
        args=spell_out(argv),
        description=__doc__,
        registry=registry(),
    )
    assert isinstance(command, LossWeightsCommand)
    return command


def main(argv: list[str] | None = None) -> int:
    """Runs one command; a user's error is one line on stderr and exit code 1."""
    try:
        loss_weights(parse(sys.argv[1:] if argv is None else argv))
    except (ValueError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
