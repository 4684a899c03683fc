"""The stage that trains a decoder on the cached readouts of frozen encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from emlnet import package, registry
from emlnet.decoder import DecoderConfig
from emlnet.encoder import Encoder
from emlnet.fit import Batches, Inputs, evaluate
from emlnet.model import CachedDecoder, EMLNet
from emlnet.prepare import prepare_targets
from emlnet.sample import Decoded, Targets, collate
from emlnet.state import Plan
from pipelines import figures, readouts, runs
from pipelines.config import flatten
from pipelines.flags import RUN
from pipelines.readouts import Cache
from pipelines.stage import Place, Stage
from shards.manifest import Manifest
from shards.order import Plan as ReadingPlan
from shards.order import epoch_plan
from shards.pixels import decode_grey
from shards.reader import ShardReader, step_keys


@dataclass(frozen=True, kw_only=True)
class DecoderJob:
    """A decoder to train.

    caches: folders of the encoders' readouts, in the order of the encoders.
    """

    data: Path | str
    encoders: tuple[Encoder, ...]
    caches: tuple[Path, ...]
    decoder: DecoderConfig
    plan: Plan
    seed: int
    num_examples: int = 0

    @property
    def title(self) -> str:
        """What progress lines call it."""
        return "decoder"

    def build(self) -> nn.Module:
        """The decoder over frozen encoders, without their backbones."""
        return CachedDecoder(EMLNet(self.encoders, self.decoder))

    def source(self, rank: int, world_size: int, device: torch.device) -> CacheSource:
        """One rank's batches."""
        return CacheSource(self, rank, world_size, device)

    def finish(self, weights: dict[str, torch.Tensor]) -> EMLNet:
        """The whole model with the trained decoder."""
        net = EMLNet(self.encoders, self.decoder)
        prefix = "net.decoder."
        net.decoder.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items()})
        return net.eval()


class CacheSource:
    """One rank's batches of readouts, from the cache; densities and fixations from the shards."""

    def __init__(self, job: DecoderJob, rank: int, world_size: int, device: torch.device) -> None:
        self.job, self.rank, self.world_size, self.device = job, rank, world_size, device
        self.steps_per_epoch = len(self._plan(len(ShardReader(job.data, "train")), 0).indices)

    def _plan(self, num_samples: int, epoch: int, train: bool = True) -> ReadingPlan:
        return epoch_plan(
            num_samples=num_samples,
            batch_size=self.job.plan.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            seed=self.job.seed,
            epoch=epoch,
            shuffle=train,
            flip=train and self.job.plan.flip,
        )

    def images(self, split: str, positions: NDArray[np.int64]) -> Batches:
        """Samples of a split by their positions, this rank's share, in order."""
        plan = self._plan(len(positions), 0, train=False)
        return self._batches(split, replace(plan, indices=positions[plan.indices]))

    def _batches(self, split: str, plan: ReadingPlan, start_step: int = 0) -> CachedBatches:
        reader = ShardReader(self.job.data, split)
        return CachedBatches(
            plan,
            [Cache.open(folder, split) for folder in self.job.caches],
            lambda position: read_gaze(reader, position),
            self.device,
            start_step,
        )

    def train(self, epoch: int, start_step: int) -> Batches:
        """The batches of an epoch, from 0, that are left after `start_step` steps."""
        plan = self._plan(len(ShardReader(self.job.data, "train")), epoch)
        return self._batches("train", plan, start_step)

    def keys(self, epoch: int, step: int) -> list[str]:
        """The images of all ranks in a step of an epoch, both from 0."""
        return step_keys(
            ShardReader(self.job.data, "train"),
            self.job.plan.batch_size,
            self.job.seed,
            epoch,
            step,
        )

    def val(self) -> Batches:
        """This rank's share of the validation images."""
        return self.images("val", np.arange(len(ShardReader(self.job.data, "val"))))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """A model's scores after an epoch, over the validation images of all ranks."""
        return evaluate(model, self.val())

    def count_unread(self) -> int:
        """None: one that cannot be read stops the readouts before."""
        return 0

    def examples(self, num: int) -> Iterator[figures.Example]:
        """At most `num` validation pictures to look at."""
        caches = [Cache.open(folder, "val") for folder in self.job.caches]

        def prepare(position: int, sample: Decoded) -> Inputs:
            taps = read_taps(caches, [position], [False], self.device)
            return taps, sample.image.shape[:2]

        return figures.examples(ShardReader(self.job.data, "val"), num, prepare)


class Readouts(Protocol):
    """Readouts of one encoder on one split."""

    def read(self, positions: Sequence[int], flips: Sequence[bool]) -> list[Tensor]:
        """For each tap (B, 1, h, w) of the samples at these positions, mirrored or not."""


class CachedBatches:
    """Batches of an epoch: ((readouts of each encoder, size), where people looked).

    readouts: of each encoder.  gaze: a sample by position, whose photograph is not looked at.
    start_step: steps of the plan to leave out.
    """

    def __init__(
        self,
        plan: ReadingPlan,
        readouts: Sequence[Readouts],
        gaze: Callable[[int], Decoded],
        device: torch.device,
        start_step: int = 0,
    ) -> None:
        self.readouts, self.gaze, self.device = readouts, gaze, device
        rows = list(zip(plan.indices, plan.weights, plan.flips, strict=True))
        self.rows = rows[start_step:]

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Inputs, Targets]]:
        """What the model is called with, and where people looked."""
        for indices, weights, flips in self.rows:
            batch = collate([self.gaze(int(i)) for i in indices], weights, flips)
            targets = prepare_targets(batch, self.device)
            taps = read_taps(self.readouts, indices.tolist(), flips.tolist(), self.device)
            yield (taps, targets.size), targets


def read_taps(
    readouts: Sequence[Readouts],
    positions: Sequence[int],
    flips: Sequence[bool],
    device: torch.device,
) -> list[list[Tensor]]:
    """For each encoder its readouts (B, 1, h, w) float32 of the samples, mirrored or not."""
    return [[tap.to(device).float() for tap in given.read(positions, flips)] for given in readouts]


def read_gaze(reader: ShardReader, position: int) -> Decoded:
    """A sample without its photograph, which is not decoded."""
    sample = reader.sample(position)
    density = decode_grey(sample.density, f"{sample.key}: the density map")
    return Decoded(
        key=sample.key,
        image=np.broadcast_to(np.uint8(0), (*density.shape, 3)),
        points=sample.points,
        observers=sample.observers,
        density=density,
    )


@dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """An encoder to join.

    cache: folder of its readouts, of a name that its weights and the data set give; there or not.
    weights: SHA-256 of its weights as safetensors writes them.
    """

    encoder: Encoder
    cache: Path
    weights: str

    @property
    def source(self) -> str:
        """What it is called in logs."""
        return f"{self.encoder.config.backbone} {self.weights[:12]}"


def open_encoders(
    packages: Sequence[Path], manifest: Manifest, caches: Path
) -> list[FrozenEncoder]:
    """The encoders of packages, all of them where one holds a decoder's model.

    caches: folder of the folders of readouts.
    """
    encoders = []
    for path in packages:
        for encoder in package.load(path).encoders:
            # Of an encoder's package, the digest of its weights file.
            weights = hashlib.sha256(save(encoder.state_dict())).hexdigest()
            cache = caches / readouts.key(encoder, manifest.digest, weights)
            encoders.append(FrozenEncoder(encoder=encoder, cache=cache, weights=weights))
    return encoders


def find_packages(encoders: Sequence[str], tracking_uri: str, folder: Path) -> list[Path]:
    """Folders of packaged encoders, each of an MLflow run, a model URI or a folder.

    folder: where those that lie elsewhere are pulled to.
    """
    return [
        registry.resolve(
            f"runs:/{uri}" if RUN.fullmatch(uri) else uri,
            tracking_uri,
            folder / "encoders" / str(number),
        )
        for number, uri in enumerate(encoders)
    ]


def compute_readouts(place: Place, encoders: Sequence[FrozenEncoder]) -> None:
    """Computes what is not cached yet of the readouts of encoders."""
    splits = ("train", "val")
    for each in encoders:
        readouts.build(each.cache, place.data, splits, each.encoder, place.compute.use_gpu)


def decoder_job(
    place: Place,
    encoders: Sequence[FrozenEncoder],
    config: DecoderConfig,
    plan: Plan,
    seed: int,
) -> DecoderJob:
    """A decoder to train on encoders whose readouts are cached."""
    return DecoderJob(
        data=place.data,
        encoders=tuple(each.encoder for each in encoders),
        caches=tuple(each.cache for each in encoders),
        decoder=config,
        plan=plan,
        seed=seed,
        num_examples=figures.NUM_EXAMPLES,
    )


def decoder_stage(
    place: Place,
    encoders: Sequence[FrozenEncoder],
    config: DecoderConfig,
    plan: Plan,
    seed: int,
    notes: str = "",
) -> Stage:
    """The stage that trains the decoder; computes readouts that are not cached yet.

    notes: what its MLflow run says besides, Markdown.
    """
    folder = place.folder / "decoder"
    if runs.find_result(folder) is None:
        compute_readouts(place, encoders)
    sources = ", ".join(each.source for each in encoders)
    return Stage(
        name="decoder",
        kind="decoder",
        job=decoder_job(place, encoders, config, plan, seed),
        place=place,
        folder=folder,
        params={**flatten(config), **flatten(plan), "seed": seed, "encoders": sources},
        backbones="+".join(each.encoder.config.backbone for each in encoders),
        notes=notes,
    )


def cache_folder(given: Path | None, run_folder: Path) -> Path:
    """The folder of the folders of readouts: as given, or shared by the runs beside this one."""
    return given.expanduser().absolute() if given else run_folder.parent / "readouts"
