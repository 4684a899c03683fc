"""The stage that scores a model on a split: the same numbers for any number of workers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet import package, registry
from emlnet.encoder import Encoder
from emlnet.maps import Kind, mirror_average, resize, to_density, to_log_density
from emlnet.metrics import score
from emlnet.model import EMLNet, average_density, encoder_names
from emlnet.sample import Targets, collate, prepare_image, prepare_targets
from pipelines import runs, tasks, trainer
from pipelines.config import EvaluateCommand
from shards.reader import ShardReader

PART = 10
"""Images of one task."""
UNIFORM_SHARE = 0.01
"""How much of a uniform density the centre prior is mixed with, so that it is 0 nowhere."""
COLUMNS = ("nss", "cc", "kl", "sim", "auc_judd", "ig")
"""What a table shows: `mit` rules, and `tuebingen` IG, bits per fixation over the centre prior."""

Scores = dict[str, dict[str, float]]
"""Mean over the images by row (a model's name) and metric."""


def evaluate(
    model: EMLNet | Encoder,
    reader: ShardReader,
    flip: bool = False,
    use_gpu: bool | None = None,
    name: str = "model",
) -> Scores:
    """Scores a model on a split, its encoders and their plain average, and the centre prior.

    flip: each map averaged with the mirrored picture's.  name: the model's row.
    """
    prior = reader.manifest.centre_prior(reader.folder)
    parts = tasks.split(len(reader), PART)
    title = f"scores of {name}, {reader.split}"
    answers = tasks.spread(_score, parts, model, reader, flip, prior, title=title, use_gpu=use_gpu)
    rows: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    for answer in answers:
        for row, metrics in answer.items():
            for metric, values in metrics.items():
                rows.setdefault(row, {}).setdefault(metric, []).append(values)
    return {
        name if row == "model" else row: {m: _mean(np.concatenate(v)) for m, v in metrics.items()}
        for row, metrics in rows.items()
    }


def _mean(values: NDArray[np.float64]) -> float:
    """Over the images that have a value: without fixations there is no NSS, AUC, IG."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


@torch.inference_mode()
def _score(
    part: list[int],
    device: torch.device,
    model: EMLNet | Encoder,
    reader: ShardReader,
    flip: bool,
    prior: NDArray[np.float32],
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Per row and metric the values of a part's images."""
    model = model.to(device).eval()
    rows: dict[str, dict[str, list[Tensor]]] = {}
    for position in part:
        copies = 2 if flip else 1
        batch = collate(
            [reader.decoded(position)] * copies,
            np.ones(copies, np.float32),
            np.array([False, True])[:copies],
        )
        image = prepare_image(batch, device)
        targets = _first(prepare_targets(batch, device))
        centre = centre_prior(prior, targets.size).to(device)
        for row, output, kind in [*outputs(model, image), ("centre prior", centre, "density")]:
            if flip and len(output) == 2:
                output = mirror_average(output[:1], output[1:], kind)
            for metric, value in _all_metrics(output, kind, targets, centre).items():
                rows.setdefault(row, {}).setdefault(metric, []).append(value)
    return {
        row: {metric: torch.cat(v).cpu().numpy() for metric, v in metrics.items()}
        for row, metrics in rows.items()
    }


def _first(targets: Targets) -> Targets:
    """The targets of a batch's first image."""
    kept = targets.owner == 0
    return Targets(
        density=targets.density[:1],
        index=targets.index[kept],
        counts=targets.counts[kept],
        weight=targets.weight[:1],
    )


def outputs(model: EMLNet | Encoder, image: Tensor) -> Iterable[tuple[str, Tensor, Kind]]:
    """The outputs (B, 1, H, W) of a model, of its encoders and of their average, with row names."""
    if isinstance(model, Encoder):
        return [("model", model(image), model.kind)]
    size = (image.shape[-2], image.shape[-1])
    readouts = model.readouts(image)
    maps = model.encoder_maps(readouts, size)
    average = average_density([to_log_density(*given) for given in maps])
    rows: list[tuple[str, Tensor, Kind]] = [("model", model.decode(readouts, size), model.kind)]
    rows.append(("average of encoders", average, "density"))
    names = encoder_names([encoder.config.backbone for encoder in model._encoders()])
    rows += [(name, *given) for name, given in zip(names, maps, strict=True)]
    return rows


def _all_metrics(output: Tensor, kind: Kind, targets: Targets, centre: Tensor) -> dict[str, Tensor]:
    """`mit` metrics by name, `tuebingen` ones as `tuebingen_<name>`, its IG as `ig`."""
    saliency = to_density(output, kind)
    fixations = targets.fixation_map()
    scores = score(saliency, fixations, targets.density, rules="mit")
    tuebingen = score(
        saliency,
        fixations,
        targets.density,
        rules="tuebingen",
        log_density=to_log_density(output, kind),
        baseline_log_density=centre,
    )
    scores["ig"] = tuebingen.pop("ig")
    return scores | {f"tuebingen_{name}": value for name, value in tuebingen.items()}


def centre_prior(prior: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """The mean training density as a log-density (1, 1, H, W), mixed with 1 % uniform."""
    maps = resize(torch.from_numpy(prior.copy())[None, None], size)
    maps = (1 - UNIFORM_SHARE) * maps / maps.sum() + UNIFORM_SHARE / (size[0] * size[1])
    return maps.log()


def table(scores: Scores) -> str:
    """The scores as a table of text, a row a model."""
    width = max(map(len, scores))
    lines = [" " * width + "".join(f"{column:>10}" for column in COLUMNS)]
    for row, metrics in scores.items():
        values = "".join(f"{metrics.get(column, float('nan')):>10.3f}" for column in COLUMNS)
        lines.append(f"{row:<{width}}{values}")
    return "\n".join(lines)


def markdown(scores: Scores) -> str:
    """The scores as a Markdown table."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row, metrics in scores.items():
        values = " | ".join(f"{metrics.get(column, float('nan')):.3f}" for column in COLUMNS)
        lines.append(f"| {row} | {values} |")
    return "\n".join(lines)


def as_json(scores: Scores, **about: Any) -> dict[str, Any]:
    """The scores and what they are of, as JSON can hold them."""
    return {**about, "scores": scores}


def run(command: EvaluateCommand) -> Scores:
    """Scores a model, prints the table, and writes it as JSON where asked."""
    reader = ShardReader(command.data.absolute(), command.split)
    with tempfile.TemporaryDirectory() as scratch:
        uri = registry.resolve(command.model, command.tracking.uri, Path(scratch) / "model")
        model = package.load(uri).model
    trainer.connect(command.compute)
    scores = evaluate(model, reader, command.flip, command.compute.use_gpu)
    print(f"\n{table(scores)}\n", flush=True)
    if command.json:
        command.json.parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(
            command.json,
            as_json(
                scores,
                model=command.model,
                split=command.split,
                flip=command.flip,
                data_digest=reader.manifest.digest,
            ),
        )
    return scores
