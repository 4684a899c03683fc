"""The commands of `python -m shards`; slow imports wait until a command runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shards.build.build_options import BuildOptions
from shards.build.parallel import Map, default_num_workers, threads

if TYPE_CHECKING:
    from shards.files.manifest import Manifest

SourceFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
LocalFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
Location = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]


@dataclass(frozen=True, kw_only=True)
class WriteSample:
    """Write a synthetic data set in SALICON's on-disk format; a seed fixes every byte."""

    out: LocalFolder
    """Folder to write to: new, or holding an earlier sample."""
    num_images: int = 60
    """Images in all; four of five become train, the others val."""
    seed: int = 0
    """Seed of pictures and gaze."""

    def run(self) -> None:
        """Write the data set."""
        from shards.synthetic import write_sample

        write_sample(self.out.expanduser(), self.num_images, self.seed)
        print(f"{self.out}: {self.num_images} synthetic images")


@dataclass(frozen=True, kw_only=True)
class BuildShards(BuildOptions):
    """Pack an eye-tracking data set into WebDataset shards and a manifest."""

    src: SourceFolder
    """Folder of the data set as its authors publish it, or of a table (csv) beside images/."""
    out: Location
    """Folder to write to, here or at s3:// or gs://: new, empty, or left by a stopped build, which
    is resumed."""
    num_workers: int = default_num_workers()
    """Threads that write shards; any number writes the same bytes."""

    def build(self, map_: Map) -> Manifest:
        """Build the data set; map_ runs the shards' tasks."""
        from shards.build.writer import build

        return build(self.src.expanduser(), self.out, self, map_=map_)

    def run(self) -> None:
        """Build the data set and print what was packed and dropped."""
        print_built(self.build(threads(self.num_workers)))


@dataclass(frozen=True, kw_only=True)
class VerifyShards:
    """Check a folder of shards against its manifest; exit with 1 and the reason if they differ."""

    out: Location
    """Folder that `build` wrote, here or at s3:// or gs://."""
    full: bool = False
    """Read every shard too: checksums, and that each picture decodes."""
    num_workers: int = default_num_workers()
    """Threads that read shards, with --full."""

    def run(self) -> None:
        """Check the data set and print a summary."""
        from shards.inspect.verify import verify

        manifest = verify(self.out, self.full, threads(self.num_workers))
        print_with_warnings(f"ok, {describe(manifest)}", manifest)


@dataclass(frozen=True, kw_only=True)
class ShowShards:
    """Write a contact sheet: photographs, their fixations, their density maps laid over."""

    out: Location
    """Folder that `build` wrote, here or at s3:// or gs://."""
    num: int = 12
    """Photographs on the sheet, evenly spread over the split."""
    split: str | None = None
    """Split to show; default: the first."""
    png: Path | None = None
    """File to write; default: OUT's name with -sheet.png, in the current folder."""

    def run(self) -> None:
        """Write the sheet and print its path."""
        from shards.inspect.contact_sheet import contact_sheet

        name = self.out.rstrip("/").rsplit("/", 1)[-1]
        png = self.png or Path(f"{name}-sheet.png")
        print(contact_sheet(self.out, png.expanduser(), self.num, self.split))


@dataclass(frozen=True, kw_only=True)
class ShardStats:
    """Print what a data set holds: images, sizes, bytes, fixations, density maps."""

    out: Location
    """Folder that `build` wrote, here or at s3:// or gs://."""

    def run(self) -> None:
        """Print the table."""
        from shards.files.manifest import Manifest
        from shards.inspect.stats import table

        manifest = Manifest.load(self.out)
        print_with_warnings(table(manifest, self.out), manifest)


def describe(manifest: Manifest) -> str:
    """Return one line: the data set's name, its samples and shards by split, its digest."""
    counts = ", ".join(
        f"{name} {len(split.samples)} samples in {len(split.shards)} shards"
        for name, split in manifest.splits.items()
    )
    edition = f" ({manifest.edition})" if manifest.edition else ""
    return f"{manifest.name}{edition}: {counts}; digest {manifest.digest[:12]}"


def print_built(manifest: Manifest) -> None:
    """Print what was packed and what was dropped."""
    print_with_warnings(describe(manifest), manifest)
    dropped = manifest.dropped
    print(
        f"dropped: {len(dropped.samples)} samples, "
        f"{dropped.points_outside} fixations outside their image, "
        f"{dropped.empty_observers} empty observers"
    )
    if dropped.unlabelled_splits:
        print(f"splits left out because they have no gaze: {', '.join(dropped.unlabelled_splits)}")


def print_with_warnings(text: str, manifest: Manifest) -> None:
    """Print a text, and warnings about the data set on stderr."""
    from shards.inspect.stats import warnings

    print(text)
    for warning in warnings(manifest):
        print(f"warning: {warning}", file=sys.stderr)
