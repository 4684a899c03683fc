"""Sources of maps to score: models and baselines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet.data.batches import prepare_image, prepare_targets
from emlnet.data.maps import Kind, density_map, mirror_average, resize, to_density, to_log_density
from emlnet.data.samples import Decoded, collate
from emlnet.data.targets import Targets
from emlnet.metrics import baselines
from emlnet.models.eml_net import EMLNet, average_density, encoder_names
from emlnet.models.encoder import Encoder
from emlnet.models.precision import to_channels_last
from shards.read.reader import ShardReader

MODEL, AVERAGE = "model", "average of encoders"
UNIFORM, CENTRE, OTHER_IMAGE_BASELINE, HALF_BASELINE, TRUTH_BASELINE = (
    "uniform",
    "centre prior",
    "another image's map",
    "half of the observers",
    "ground-truth map",
)
BASELINES = (UNIFORM, CENTRE, OTHER_IMAGE_BASELINE, HALF_BASELINE, TRUTH_BASELINE)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredMap:
    """A map for one image.

    name: the name of its row in the table.  saliency: (1, 1, H, W), any scale.  log_density: the
    same map as a log-density; None if the map is not a density.  targets: ground truth to score
    against; None: the image's own.
    """

    name: str
    saliency: Tensor
    log_density: Tensor | None
    targets: Targets | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitImage:
    """An image of a split.  targets: its ground truth on the device."""

    position: int
    sample: Decoded
    targets: Targets


class MapSource(Protocol):
    """A source of maps, made in the driver and sent to every worker."""

    def rows(self, split_image: SplitImage) -> Iterable[ScoredMap]:
        """Return its maps for an image, on the device of the image's targets."""


def density_row(name: str, log_density: Tensor) -> ScoredMap:
    """Return a density model's map; its saliency is the density."""
    return ScoredMap(name=name, saliency=log_density.exp(), log_density=log_density)


def ig_baseline(prior: NDArray[np.float32] | None, size: tuple[int, int]) -> Tensor:
    """Return the baseline of IG, a log-density (1, 1, H, W): the centre prior, else uniform."""
    return baselines.uniform(size) if prior is None else baselines.centre_prior(prior, size)


def prepare_split_image(position: int, sample: Decoded, device: torch.device) -> SplitImage:
    """Put an image's fixations and density map on the device."""
    batch = collate([sample], np.ones(1, np.float32), np.zeros(1, np.bool_))
    return SplitImage(position=position, sample=sample, targets=prepare_targets(batch, device))


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSource:
    """The maps of a model and, if it joins encoders, of each encoder and of their average.

    flip: average each map with the mirrored picture's.  own_map_only: only the model's own map.
    """

    model: EMLNet | Encoder
    flip: bool = False
    own_map_only: bool = False

    def rows(self, split_image: SplitImage) -> Iterable[ScoredMap]:
        """Return the model's maps, its own first."""
        device = split_image.targets.density.device
        to_channels_last(self.model, device).eval()  # In place: only the first call moves weights.
        batch = collate([split_image.sample], np.ones(1, np.float32), np.zeros(1, np.bool_))
        image = prepare_image(batch, device)
        if self.flip:
            image = torch.cat([image, image.flip(-1)])
        for name, output, kind in self.outputs(image):
            if self.flip:
                output = mirror_average(output[:1], output[1:], kind)
            yield ScoredMap(
                name=name,
                saliency=to_density(output, kind),
                log_density=to_log_density(output, kind),
            )

    def outputs(self, image: Tensor) -> Iterable[tuple[str, Tensor, Kind]]:
        """Yield name, output and kind of each map of images (B, 3, H, W), the model's own first."""
        if isinstance(self.model, Encoder) or self.own_map_only:
            yield MODEL, self.model(image), self.model.kind
            return
        size = (image.shape[-2], image.shape[-1])
        readouts = self.model.readouts(image)
        maps = self.model.encoder_maps(readouts, size)
        yield MODEL, self.model.decode(readouts, size), self.model.kind
        yield AVERAGE, average_density([to_log_density(*given) for given in maps]), "density"
        names = encoder_names([encoder.config.backbone for encoder in self.model.encoder_list])
        for name, (output, kind) in zip(names, maps, strict=True):
            yield name, output, kind


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineSource:
    """The baselines: maps that need no model.

    prior: (H, W) mean training density; None without a train split.  sigma: blur of the data's
    density maps in pixels.
    """

    prior: NDArray[np.float32] | None
    reader: ShardReader
    sigma: float

    def rows(self, split_image: SplitImage) -> Iterable[ScoredMap]:
        """Uniform, centre prior, another image's map, half of the observers, ground-truth map."""
        targets = split_image.targets
        device, size = targets.density.device, targets.size
        yield density_row(UNIFORM, baselines.uniform(size).to(device))
        centre = ig_baseline(self.prior, size).to(device)
        if self.prior is not None:
            yield density_row(CENTRE, centre)
        if len(self.reader) > 1:
            yield _map_row(OTHER_IMAGE_BASELINE, self._other(split_image).to(device))
        yield from self._halves(split_image, centre.exp())
        yield _map_row(TRUTH_BASELINE, targets.density)

    def _other(self, split_image: SplitImage) -> Tensor:
        """Return the density map of the image half the split away, at this image's size."""
        num = len(self.reader)
        other = self.reader.decoded((split_image.position + num // 2) % num)
        density = resize(
            torch.from_numpy(other.density.copy())[None, None].float(), split_image.targets.size
        )
        return density / density.sum()

    def _halves(self, split_image: SplitImage, centre: Tensor) -> Iterable[ScoredMap]:
        """Predict half of the observers from the other half and the centre prior."""
        sample = split_image.sample
        first = baselines.first_half(sample.observers, split_image.position)
        if first.all() or not first.any():
            return
        halves = [
            prepare_split_image(
                split_image.position,
                replace(sample, points=sample.points[keep], observers=sample.observers[keep]),
                centre.device,
            ).targets
            for keep in (first, ~first)
        ]
        seen, unseen = (density_map(half.fixation_map(), self.sigma) for half in halves)
        share = baselines.PRIOR_SHARE
        yield replace(
            density_row(HALF_BASELINE, ((1 - share) * seen + share * centre).log()),
            targets=replace(halves[1], density=unseen),
        )


def _map_row(name: str, density: Tensor) -> ScoredMap:
    """Score a density map; its log-density gets 1 % uniform, because the map has zeros."""
    return ScoredMap(name=name, saliency=density, log_density=baselines.mixed_log_density(density))
