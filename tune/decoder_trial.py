"""Trials of the decoder: seconds each, in processes that run one after another.

Readouts and gaze lie once on each node: in Ray's object store, shrunk for trials; at their own
size, for the final runs, in the files of the cache, which processes map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import ray
import torch
from ray import tune
from torch import Tensor, nn

from emlnet.data.framing import Size
from emlnet.data.maps import Kind, resize
from emlnet.data.samples import Decoded
from emlnet.models.decoder import Decoder, DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder
from emlnet.models.saliency_network import SaliencyNetwork
from emlnet.training.fit import BatchSource, Hooks, fit
from emlnet.training.state import EpochReport, TrainState, start
from emlnet.training.validation import evaluate
from pipelines.stages.decoder_stage import CachedBatches, DecoderJob, Readouts, read_gaze
from pipelines.stages.readout_cache import Cache
from shards.read.order import epoch_plan
from shards.read.reader import ShardReader
from tune.objective import HELD_OUT, centre_baseline, halves
from tune.smaller import Gaze, Part, Shrunk, scaled
from tune.trial import Result, Trial


@dataclass(frozen=True, kw_only=True)
class SplitData:
    """Readouts of each encoder on a split, and its gaze by position."""

    readouts: Sequence[Readouts]
    gaze: Callable[[int], Decoded]
    num_samples: int


class Joined(SaliencyNetwork):
    """A decoder that is given, as the last of an encoder's readouts, the encoder's own map.

    inner_size: the (H, W) at which the `eml` decoder decodes a picture of a size, as
    `EMLNet.decode` does.
    """

    def __init__(self, decoder: Decoder, kind: Kind, inner_size: Callable[[Size], Size]) -> None:
        super().__init__()
        self.decoder, self.kind, self.inner_size = decoder, kind, inner_size

    def forward(self, readouts: list[list[Tensor]], size: Size) -> Tensor:
        """Readouts of each encoder and the picture's (H, W) to the answer (B, 1, H, W)."""
        taps = [given[:-1] for given in readouts]
        answer: Tensor
        if self.kind == "density":
            answer = self.decoder(taps, [given[-1] for given in readouts], size)
        else:
            answer = resize(self.decoder(taps, [], self.inner_size(size)), size)
        return answer


def share(
    data: Path | str, encoders: Sequence[Encoder], caches: Sequence[Path], scale: float
) -> dict[str, ray.ObjectRef]:
    """Puts train and val, at a scale, into the object store."""
    shared = {}
    for split in ("train", "val"):
        reader = ShardReader(data, split)
        readouts = [
            Shrunk.of(Cache.open(cache, split), encoder, reader.sizes, scale)
            for encoder, cache in zip(encoders, caches, strict=True)
        ]
        gaze = Gaze.of(reader, scale)
        shared[split] = ray.put(SplitData(readouts=readouts, gaze=gaze, num_samples=len(reader)))
    return shared


@dataclass(frozen=True, kw_only=True)
class DecoderSubject:
    """The decoder over encoders whose readouts are cached.

    shared: train and val, at the scale of the trials.  use_gpu: train on one.
    """

    data: Path | str
    encoders: tuple[Encoder, ...]
    caches: tuple[Path, ...]
    decoder: DecoderConfig
    shared: dict[str, ray.ObjectRef]
    num_threads: int
    use_gpu: bool = False

    reuse_actors = True

    @property
    def resources(self) -> dict[str, float]:
        """A trial runs in its own process."""
        return {"CPU": 1, "GPU": 1} if self.use_gpu else {"CPU": 1}

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return decoder_title(self.encoders)

    @property
    def width(self) -> int:
        """Hidden channels of its correction."""
        return self.decoder.width

    def train(self, trial: Trial, folder: Path, result: Result) -> None:
        """Trains in this process, from the start: a trial takes seconds."""
        final = "held_out" in trial.halves
        device = torch.device("cuda" if self.use_gpu else "cpu")
        torch.set_num_threads(self.num_threads)
        torch.manual_seed(trial.seed)
        job = DecoderJob(
            data=(self.data,),
            encoders=self.encoders,
            caches=self.caches,
            decoder=replace(self.decoder, width=trial.width),
            plan=trial.plan,
            seed=trial.seed,
        )
        # In the final runs the untrained decoder, the same with any weights, is scored as well.
        model = (
            job.build()
            if final
            else Joined(
                EMLNet(self.encoders, job.decoder).decoder,
                job.decoder.readout,
                lambda size: scaled(self.encoders[0].input_size(size), trial.scale),
            )
        )
        model.to(device)
        train, val = (
            (_mapped(self.caches, self.data, split) if final else ray.get(self.shared[split]))
            for split in ("train", "val")
        )
        source = TrialBatches(trial, device, train, val, self.data)
        state = start(model, trial.plan, source.steps_per_epoch)
        fit(state, trial.plan, source, TuneReport(result))


def decoder_title(encoders: Sequence[Encoder]) -> str:
    """What a decoder over encoders is called in tables."""
    return "decoder of " + "+".join(encoder.config.backbone for encoder in encoders)


class TuneReport(Hooks):
    """Reports each epoch to Ray Tune."""

    def __init__(self, result: Result) -> None:
        self.result = result

    def report(self, entry: EpochReport, state: TrainState) -> None:
        """Called after each validation."""
        tune.report(self.result(asdict(entry)))


class TrialBatches(BatchSource):
    """Batches of a trial, scored on the halves of val that the trial names."""

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        train: SplitData,
        val: SplitData,
        data: Path | str,
    ) -> None:
        self.trial, self.device, self.data = trial, device, data
        self.train_data, self.val_data = train, val
        self.steps_per_epoch = len(self.train(0, 0))

    def train(self, epoch: int, start_step: int) -> CachedBatches:
        """Return the batches of an epoch, from 0, without its first `start_step` steps."""
        data, plan = self.train_data, self.trial.plan
        order = epoch_plan(
            num_samples=data.num_samples,
            batch_size=plan.batch_size,
            seed=self.trial.seed,
            epoch=epoch,
            shuffle=True,
            flip=plan.flip,
        )
        return CachedBatches(order, data.readouts, data.gaze, self.device, start_step)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the scores of the trial's halves of val, the held-out one with a prefix."""
        val, scores = self.val_data, dict[str, float]()
        for half, positions in zip(("tuned", "held_out"), halves(val.num_samples), strict=True):
            if half not in self.trial.halves:
                continue
            batches = CachedBatches(
                epoch_plan(num_samples=len(positions), batch_size=self.trial.plan.batch_size),
                [Part(readouts, positions) for readouts in val.readouts],
                lambda position, positions=positions: val.gaze(positions[position]),  # type: ignore[misc]
                self.device,
            )
            prefix = HELD_OUT if half == "held_out" else ""
            found = evaluate(model, batches, "tuebingen", baseline=_baseline(self.data))
            scores |= {f"{prefix}{name}": value for name, value in found.items()}
        return scores


_baseline = lru_cache(maxsize=1)(centre_baseline)
"""Once in a process, not once in a trial."""


@lru_cache(maxsize=2)
def _mapped(caches: tuple[Path, ...], data: Path | str, split: str) -> SplitData:
    """Readouts in the files of the cache, gaze in the shards."""
    reader = ShardReader(data, split)
    return SplitData(
        readouts=[Cache.open(cache, split) for cache in caches],
        gaze=lambda position: read_gaze(reader, position),
        num_samples=len(reader),
    )
