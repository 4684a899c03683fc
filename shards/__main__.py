"""`python -m shards sample | build | verify`: makes a synthetic data set, packs one, checks one."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from shards.manifest import Manifest
from shards.sample import write_sample
from shards.verify import verify
from shards.writer import SHARD_SIZE, build

Source = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
Out = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Writes a synthetic data set in SALICON's on-disk format; a seed fixes every byte."""

    out: Out
    """Folder to write to: new, or holding an earlier sample."""
    num_images: int = 60
    """Images in all; four of five become train, the others val."""
    seed: int = 0
    """Seed of pictures and gaze."""

    def run(self) -> None:
        """Writes the data set."""
        write_sample(self.out, self.num_images, self.seed)
        print(f"{self.out}: {self.num_images} synthetic images")


@dataclass(frozen=True, kw_only=True)
class Build:
    """Packs a raw folder in SALICON's layout into WebDataset shards and a manifest."""

    src: Source
    """Folder with images/, fixations/ and maps/."""
    out: Out
    """Folder to write to: new, empty, or left by an unfinished build."""
    splits: tuple[str, ...] = ()
    """Splits to pack; all that have gaze when none is named."""
    shard_size: int = SHARD_SIZE
    """Samples that one shard holds at most."""
    skip_incomplete: bool = False
    """Leave out images that cannot be used; they are counted and recorded in the manifest."""
    seed: int = 0
    """Seed of the 90/10 split that a folder without splits gets."""

    def run(self) -> None:
        """Builds the data set and says what was packed and dropped."""
        manifest = build(
            self.src, self.out, self.splits, self.shard_size, self.skip_incomplete, self.seed
        )
        dropped = manifest.dropped
        print(describe(manifest))
        print(
            f"dropped: {len(dropped.samples)} incomplete samples, "
            f"{dropped.points_outside} fixations outside their image, "
            f"{dropped.empty_observers} empty observers"
        )
        if dropped.unlabelled_splits:
            print(f"without gaze, so left out: {', '.join(dropped.unlabelled_splits)}")


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Checks a folder of shards against its manifest; exit 1 and the reason when they differ."""

    out: Out
    """Folder that `build` wrote."""
    full: bool = False
    """Read every shard too: check sums, and that each picture decodes."""

    def run(self) -> None:
        """Checks the data set and says what it holds."""
        print(f"ok, {describe(verify(self.out, self.full))}")


Command = (
    Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Build, tyro.conf.subcommand("build")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def describe(manifest: Manifest) -> str:
    """One line: the data set's name, its samples and shards by split, its digest."""
    counts = ", ".join(
        f"{name} {len(split.samples)} samples in {len(split.shards)} shards"
        for name, split in manifest.splits.items()
    )
    return f"{manifest.name}: {counts}; digest {manifest.digest[:12]}"


def parse(argv: list[str]) -> Sample | Build | Verify:
    """A command's config from its arguments."""
    return tyro.cli(
        Command,
        prog="python -m shards",
        args=argv,
        description=__doc__,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def main(argv: list[str] | None = None) -> int:
    """Runs one command; a user's error is one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        parse(sys.argv[1:] if argv is None else argv).run()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
