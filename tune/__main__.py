"""`python -m tune loss-weights | full`: find the loss weights that suit a model best."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pipelines.command_line import Program


def program(argv: Sequence[str]) -> Program:
    """Return the commands; the flags of `loss-weights --decoder` have a decoder's defaults."""
    tunes_decoder = any(word.partition("=")[0] == "--decoder" for word in argv)
    function = "decoder_weights" if tunes_decoder else "loss_weights"
    return Program(
        name="python -m tune",
        about="Find the loss weights that suit a model best.",
        commands={
            "loss-weights": (
                f"tune.search:{function}",
                "search for an encoder's loss weights, or with --decoder for a decoder's",
            ),
            "full": (
                "tune.searched_full:run",
                "search, then run `pipelines full` with the best weights",
            ),
        },
    )


def parse(argv: Sequence[str]) -> Any:
    """Parse arguments, the command first, to the dataclass of the command."""
    return program(argv).parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    return program(words).main(words)


if __name__ == "__main__":
    sys.exit(main())
