"""The commands of `python -m shards`; each imports what it needs when it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from shards.build.parallel import Map, default_num_workers, processes

if TYPE_CHECKING:
    from shards.files.manifest import Manifest

SourceFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
LocalFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
Location = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]


@dataclass(frozen=True, kw_only=True)
class WriteSample:
    """Writes a synthetic data set in SALICON's on-disk format; a seed fixes every byte."""

    out: LocalFolder
    """Folder to write to: new, or holding an earlier sample."""
    num_images: int = 60
    """Images in all; four of five become train, the others val."""
    seed: int = 0
    """Seed of pictures and gaze."""

    def run(self) -> None:
        """Writes the data set."""
        from shards.layouts.synthetic import write_sample

        write_sample(self.out.expanduser(), self.num_images, self.seed)
        print(f"{self.out}: {self.num_images} synthetic images")


@dataclass(frozen=True, kw_only=True)
class BuildShards:
    """Packs an eye-tracking data set into WebDataset shards and a manifest."""

    src: SourceFolder
    """Folder of the data set as its authors publish it, or of a table (csv) beside images/."""
    out: Location
    """Folder to write to, here or at s3:// or gs://: new, empty, or left by a stopped build, which
    is resumed."""
    format: str | None = None
    """Layout of SRC, found by its folders' names when not given: salicon, salicon-json, osie,
    mit1003, cat2000 or csv."""
    splits: tuple[str, ...] = ()
    """Splits to pack; all that have gaze when none is named."""
    maps: Literal["auto", "files", "fixations"] = "auto"
    """Where density maps come from: files, fixations (blurred by --sigma), or files if there are
    any."""
    sigma: float | None = None
    """Pixels of the Gaussian that makes density maps; where maps come from files, what they are
    compared with. Default: the data set's own, if it is known."""
    sigma_degrees: float | None = None
    """The same in degrees of visual angle; needs --pixels-per-degree."""
    pixels_per_degree: float | None = None
    """Pixels of the photograph that one degree of visual angle covers."""
    edition: str | None = None
    """Edition of the data set to record; SALICON's is told by its number of fixations."""
    licence: str | None = None
    """Licence of the data set, which models trained on it name; default: the first line of SRC's
    file LICENSE."""
    table: Path | None = None
    """csv: the table, when it is not the only .csv in SRC."""
    units: Literal["pixels", "fraction"] = "pixels"
    """csv: unit of x and y; fractions are of the photograph's width and height."""
    origin: Literal["top-left", "bottom-left", "centre"] = "top-left"
    """csv: where x and y begin; y points down from the top-left, up from the others."""
    first_pixel: Literal[0, 1] = 0
    """csv: the number of the first pixel, where pixels are counted from a corner."""
    trust_coordinates: bool = False
    """csv: build although x and y look as if they had other units, another size or order."""
    shard_size: int = 100
    """Samples that one shard holds at most."""
    skip_incomplete: bool = False
    """Leave out images that cannot be used; they are counted and recorded in the manifest."""
    drop_duplicates: bool = False
    """Leave out of val and test the photographs that train shows too, exactly or encoded anew."""
    seed: int = 0
    """Seed of the 90/10 split that a data set without splits gets."""
    num_workers: int = default_num_workers()
    """Processes that write shards; any number writes the same bytes."""

    def blur(self) -> float | None:
        """Sigma in pixels.  Raises ValueError when the flags for it do not go together."""
        if (self.sigma_degrees is None) != (self.pixels_per_degree is None):
            raise ValueError("--sigma-degrees and --pixels-per-degree go together; give both")
        if self.sigma is not None and self.sigma_degrees is not None:
            raise ValueError("--sigma and --sigma-degrees say the same thing; give one")
        if self.sigma_degrees is not None and self.pixels_per_degree is not None:
            return self.sigma_degrees * self.pixels_per_degree
        return self.sigma

    def build(self, map_: Map) -> Manifest:
        """Builds the data set; map_ applies a function to each shard's task."""
        from shards.build.writer import build
        from shards.layouts.raw_gaze import CoordinateSystem
        from shards.layouts.raw_samples import SourceOptions

        options = SourceOptions(
            splits=self.splits,
            seed=self.seed,
            maps=self.maps,
            table=self.table and self.table.expanduser(),
            coordinates=CoordinateSystem(
                units=self.units, origin=self.origin, first_pixel=self.first_pixel
            ),
            trust_coordinates=self.trust_coordinates,
        )
        return build(
            self.src.expanduser(),
            self.out,
            options,
            format=self.format,
            sigma=self.blur(),
            edition=self.edition,
            licence=self.licence,
            shard_size=self.shard_size,
            skip_incomplete=self.skip_incomplete,
            drop_duplicates=self.drop_duplicates,
            map_=map_,
        )

    def run(self) -> None:
        """Builds the data set and says what was packed and dropped."""
        with processes(self.num_workers) as map_:
            say_built(self.build(map_))


@dataclass(frozen=True, kw_only=True)
class VerifyShards:
    """Checks a folder of shards against its manifest; exit 1 and the reason when they differ."""

    out: Location
    """Folder that `build` wrote, here or at s3:// or gs://."""
    full: bool = False
    """Read every shard too: checksums, and that each picture decodes."""
    num_workers: int = default_num_workers()
    """Processes that read shards, with --full."""

    def run(self) -> None:
        """Checks the data set and says what it holds."""
        from shards.inspect.verify import verify

        with processes(self.num_workers if self.full else 1) as map_:
            manifest = verify(self.out, self.full, map_)
        say(f"ok, {describe(manifest)}", manifest)


@dataclass(frozen=True, kw_only=True)
class ShowShards:
    """Writes a contact sheet: photographs, their fixations, their density maps laid over."""

    out: Location
    """Folder that `build` wrote, here or at s3:// or gs://."""
    num: int = 12
    """Photographs on the sheet, evenly over the split."""
    split: str | None = None
    """Split to show; the first when not given."""
    png: Path | None = None
    """File to write; OUT's name with -sheet.png, in this folder, when not given."""

    def run(self) -> None:
        """Writes the sheet and says where."""
        from shards.inspect.contact_sheet import contact_sheet

        name = self.out.rstrip("/").rsplit("/", 1)[-1]
        png = self.png or Path(f"{name}-sheet.png")
        print(contact_sheet(self.out, png.expanduser(), self.num, self.split))


@dataclass(frozen=True, kw_only=True)
class ShardStats:
    """Prints what a data set holds: images, sizes, bytes, fixations, density maps."""

    out: Location
    """Folder that `build` wrote, here or at s3:// or gs://."""

    def run(self) -> None:
        """Prints the table."""
        from shards.files.manifest import Manifest
        from shards.inspect.stats import table

        manifest = Manifest.load(self.out)
        say(table(manifest, self.out), manifest)


def describe(manifest: Manifest) -> str:
    """One line: the data set's name, its samples and shards by split, its digest."""
    counts = ", ".join(
        f"{name} {len(split.samples)} samples in {len(split.shards)} shards"
        for name, split in manifest.splits.items()
    )
    edition = f" ({manifest.edition})" if manifest.edition else ""
    return f"{manifest.name}{edition}: {counts}; digest {manifest.digest[:12]}"


def say_built(manifest: Manifest) -> None:
    """Prints what was packed and what was dropped."""
    say(describe(manifest), manifest)
    dropped = manifest.dropped
    print(
        f"dropped: {len(dropped.samples)} samples, "
        f"{dropped.points_outside} fixations outside their image, "
        f"{dropped.empty_observers} empty observers"
    )
    if dropped.unlabelled_splits:
        print(f"without gaze, so left out: {', '.join(dropped.unlabelled_splits)}")


def say(text: str, manifest: Manifest) -> None:
    """Prints a text, and on stderr what is suspicious about the data set."""
    from shards.inspect.stats import warnings

    print(text)
    for warning in warnings(manifest):
        print(f"warning: {warning}", file=sys.stderr)
