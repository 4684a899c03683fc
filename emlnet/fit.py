"""Training: plain loops over batches, a state, and a report at the end of each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from emlnet.losses import LossWeights, Terms, saliency_loss
from emlnet.maps import Kind, mirror_average, to_density, to_log_density
from emlnet.metrics import Rules, score
from emlnet.sample import Targets

Inputs = tuple[Any, ...]
"""What a model is called with: images, or readouts and a size."""


class Batches(Protocol):
    """An epoch's batches, or what is left of it after `start_step` steps."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Inputs, Targets]]: ...


Metric = Literal["kl", "nss", "cc", "sim", "auc_judd"]
LOWER_IS_BETTER = ("kl",)
"""Metrics of which less is better."""


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is trained."""

    epochs: int = 4
    """Number of passes over the training images."""
    batch_size: int = 8
    """Images per step, over all workers."""
    lr: float = 1e-3
    """Peak learning rate of the head or decoder, for the whole batch."""
    backbone_lr: float = 0.3
    """Learning rate of the backbone, as a multiple of `lr`."""
    readout_lr: float = 3.0
    """Learning rate of the readouts, as a multiple of `lr`."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`adamw`, or `sgd` with momentum 0.9."""
    weight_decay: float = 1e-4
    """Weight decay per unit of learning rate."""
    schedule: Literal["one-cycle", "step"] = "one-cycle"
    """`one-cycle`: warm-up, then cosine to zero.  `step`: x 0.1 every `step_epochs`."""
    warmup: float = 0.2
    """Share of the steps in which a one-cycle learning rate rises."""
    step_epochs: int = 5
    """Epochs between drops of a `step` schedule."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this Euclidean norm; 0 leaves them."""
    loss_weights: LossWeights = field(default_factory=LossWeights)
    """Weights of the loss terms: kl=10,cc=2,nss=1,sim=0,mse=0, or @FILE that a search wrote."""
    terms: Terms = "exact"
    """`exact` loss terms, or `reference`: the values of EML-NET's published training."""
    flip: bool = True
    """Mirror each training picture with a chance of one half."""
    ema: float = 0.0
    """Decay per step of the average of weights that is validated and kept; 0 keeps none."""
    checkpoint_every: int = 0
    """Steps between checkpoints within an epoch; 0 writes one at the end of each epoch."""
    select: Metric = "kl"
    """Validation metric by which the best epoch is kept."""
    guard: tuple[Metric, ...] = ()
    """Validation metrics in which a kept epoch of a decoder is not worse than the untrained one."""

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is a decay in 0..1, not {self.ema}")
        if self.epochs < 1 or self.batch_size < 1 or self.lr <= 0:
            raise ValueError(f"epochs and batch size are at least 1, lr is above 0: {self}")


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch gave.  epoch counts from 1; 0 is the untrained model."""

    epoch: int
    train_loss: dict[str, float]
    """Mean over the epoch's images of the total and of each unweighted term."""
    scores: dict[str, float]
    """Mean over the validation images by metric, the `mit` rules."""
    seconds: float
    """Wall time of the epoch with its validation."""
    best: bool
    """Whether this is the best epoch so far by the plan's metric."""


@dataclass(kw_only=True)
class TrainState:
    """All that training needs to go on: what a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Steps done in the epoch that is under way."""
    loss_sums: Tensor | None = None
    """Sums over all ranks' images of those steps: total loss, each term, number of images."""
    history: list[EpochReport] = field(default_factory=list)
    average: list[Tensor] = field(default_factory=list)
    """Moving average of the trainable parameters, in their order; empty when none is kept."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """Trained weights of the best epoch, on the CPU."""


Report = Callable[[EpochReport, TrainState], None]
Save = Callable[[TrainState], None]
Progress = Callable[[int, int, int], None]
"""Called after each step with the epoch, from 0, the steps done in it and its number of steps."""


def start(model: nn.Module, plan: Plan, steps_per_epoch: int) -> TrainState:
    """A fresh state: parameter groups with their learning rates, optimiser, schedule."""
    groups = parameter_groups(unwrap(model), plan)
    optimizer: torch.optim.Optimizer
    if plan.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=plan.weight_decay)
    schedule: LRScheduler
    if plan.schedule == "one-cycle":
        schedule = OneCycleLR(
            optimizer,
            [group["lr"] for group in groups],
            total_steps=plan.epochs * steps_per_epoch,
            pct_start=plan.warmup,
            cycle_momentum=False,
        )
    else:
        drops = range(plan.step_epochs, plan.epochs, plan.step_epochs)
        schedule = MultiStepLR(optimizer, [epoch * steps_per_epoch for epoch in drops])
    return TrainState(model=model, optimizer=optimizer, schedule=schedule)


def parameter_groups(model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate: backbone, readouts, all else."""
    rates = {"backbone": plan.backbone_lr * plan.lr, "readout": plan.readout_lr * plan.lr}
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(name.partition(".")[0], []).append(parameter)
    return [
        {"params": params, "lr": rates.get(part, plan.lr), "name": part}
        for part, params in groups.items()
    ]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, nn.Module)
    return inner


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of what training changes: parameters and buffers of unfrozen modules."""
    inner = unwrap(model)
    frozen = {n for n, module in inner.named_modules() if _is_frozen(module)}
    return {
        key: value.detach().cpu().clone()
        for key, value in inner.state_dict().items()
        if not any(key.startswith(f"{name}.") for name in frozen if name)
    }


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def fit(
    state: TrainState,
    plan: Plan,
    train_batches: Callable[[int, int], Batches],
    val_batches: Callable[[], Batches],
    report: Report,
    save: Save | None = None,
    progress: Progress | None = None,
) -> TrainState:
    """Trains from where the state is to the plan's last epoch, validating and reporting after each.

    train_batches: called with an epoch, counted from 0, and the steps of it that are done; gives
    the batches that are left.  save: called every `checkpoint_every` steps within an epoch.
    A model that answers well before any training (a decoder that starts at the average of its
    encoders) is a candidate for the best one, reported as epoch 0.
    Raises DivergedError when the loss is not finite, with the step.
    """
    if (
        state.epoch == 0
        and not state.history
        and getattr(unwrap(state.model), "starts_ready", False)
    ):
        _validate(state, plan, {}, val_batches, report, time.perf_counter())
    for epoch in range(state.epoch, plan.epochs):
        began = time.perf_counter()
        losses = train_epoch(state, plan, train_batches(epoch, state.step), save, progress)
        state.epoch, state.step, state.loss_sums = epoch + 1, 0, None
        _validate(state, plan, losses, val_batches, report, began)
    return state


def _validate(
    state: TrainState,
    plan: Plan,
    losses: dict[str, float],
    val_batches: Callable[[], Batches],
    report: Report,
    began: float,
) -> None:
    with averaged(state):
        scores = evaluate(state.model, val_batches())
        best = all(better(scores, past.scores, plan.select) for past in state.history if past.best)
        if state.history and state.history[0].epoch == 0:
            untrained = state.history[0].scores
            best &= not any(better(untrained, scores, metric) for metric in plan.guard)
        if best:
            state.best_weights = trained_weights(state.model)
    entry = EpochReport(
        epoch=state.epoch,
        train_loss=losses,
        scores=scores,
        seconds=time.perf_counter() - began,
        best=best,
    )
    state.history.append(entry)
    report(entry, state)


def better(scores: dict[str, float], than: dict[str, float], metric: str) -> bool:
    """Whether the first scores beat the second by that metric; a NaN never does."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    first, second = sign * scores[metric], sign * than[metric]
    return first > second or (math.isnan(second) and not math.isnan(first))


def train_epoch(
    state: TrainState,
    plan: Plan,
    batches: Batches,
    save: Save | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """What is left of one epoch; returns the mean over all its images, of all ranks, of the total
    loss and of each term.

    Nothing is read from the device between steps but every 25th, when the losses are checked.
    Raises DivergedError when the loss is not finite, ValueError when there is no batch.
    """
    model, kind = state.model.train(), _kind(state.model)
    num_steps = state.step + len(batches)
    names: list[str] = []
    unchecked: list[Tensor] = []
    for inputs, targets in batches:
        total, terms = saliency_loss(model(*inputs), targets, plan.loss_weights, kind, plan.terms)
        loss = (total * targets.weight).sum() / _share(targets.weight)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if plan.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), plan.clip_norm)
        state.optimizer.step()
        state.schedule.step()
        state.step += 1
        if plan.ema:
            _update_average(state, plan.ema)
        names = ["total", *terms]
        values = torch.stack([total, *terms.values(), torch.ones_like(total)]).detach().double()
        unchecked.append(values @ targets.weight.double())
        saving = bool(plan.checkpoint_every) and state.step % plan.checkpoint_every == 0
        if saving or len(unchecked) == 25 or state.step == num_steps:
            state.loss_sums = _add_checked(state, unchecked, num_steps)
            unchecked = []
        if saving or state.step == num_steps:
            _check_weights(state, num_steps)
        if saving and save and state.step < num_steps:
            save(state)
        if progress:
            progress(state.epoch, state.step, num_steps)
    if state.loss_sums is None or not names:
        raise ValueError("an epoch without a single step: there are no training images")
    *means, num_images = state.loss_sums.tolist()
    return {name: value / num_images for name, value in zip(names, means, strict=True)}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes, in order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def _update_average(state: TrainState, decay: float) -> None:
    weights = trainable(state.model)
    if not state.average:
        state.average = [weight.detach().clone() for weight in weights]
    for average, weight in zip(state.average, weights, strict=True):
        average.lerp_(weight, 1 - decay)


@contextmanager
def averaged(state: TrainState) -> Iterator[None]:
    """The model with the average of its weights, where one is kept; then with its own again."""
    own = [weight.detach().clone() for weight in trainable(state.model)] if state.average else []
    _set_weights(state.model, state.average)
    yield
    _set_weights(state.model, own)


@torch.no_grad()
def _set_weights(model: nn.Module, values: list[Tensor]) -> None:
    for weight, value in zip(trainable(model), values, strict=False):
        weight.copy_(value)


def _share(weight: Tensor) -> Tensor:
    """This rank's divisor: averaged over ranks, gradients are those of the mean over all images."""
    if not dist.is_initialized():
        return weight.sum()
    total = weight.sum()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _add_checked(state: TrainState, unchecked: list[Tensor], num_steps: int) -> Tensor:
    """The epoch's sums with those of its latest steps, which must be finite on every rank."""
    latest = sum_over_ranks(torch.stack(unchecked))
    finite = latest.isfinite().all(1)
    if not finite.all():
        step = state.step - len(unchecked) + int((~finite).nonzero()[0]) + 1
        raise DivergedError(
            f"the loss is not finite at step {step} of {num_steps} in epoch {state.epoch + 1}; "
            "the last good checkpoint is kept. A lower lr or clip_norm may help"
        )
    sums = latest.sum(0)
    return sums if state.loss_sums is None else state.loss_sums + sums


def _check_weights(state: TrainState, num_steps: int) -> None:
    """A finite loss can still have had a gradient that is not: such weights are not kept."""
    if not torch.stack([w.detach().sum() for w in trainable(state.model)]).isfinite().all():
        raise DivergedError(
            f"weights are not finite after step {state.step} of {num_steps} in epoch "
            f"{state.epoch + 1}; the last good checkpoint is kept. A lower lr or clip_norm may help"
        )


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, or the tensor itself when there is one process."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Batches, rules: Rules = "mit", flip: bool = False
) -> dict[str, float]:
    """Mean over the images of all ranks of each metric; fixation metrics skip images without any.

    flip: score the average with the mirrored picture's map.  Every rank calls it equally often.
    """
    model.eval()
    kind, names, sums = _kind(model), [], []
    for inputs, targets in batches:
        output = unwrap(model)(*inputs)
        if flip:
            mirrored = unwrap(model)(inputs[0].flip(-1), *inputs[1:])
            output = mirror_average(output, mirrored, kind)
        scores = score_output(output, targets, kind, rules)
        values = torch.stack(list(scores.values())).double()
        counted = targets.weight.double() * values.isfinite()
        names = list(scores)
        sums.append(torch.stack([(values.nan_to_num() * counted).sum(1), counted.sum(1)]))
    if not sums:
        raise ValueError("there is nothing to evaluate: no validation images")
    total, number = sum_over_ranks(torch.stack(sums).sum(0))
    return dict(zip(names, (total / number).tolist(), strict=True))


def score_output(
    output: Tensor, targets: Targets, kind: Kind, rules: Rules = "mit", **more: Tensor
) -> dict[str, Tensor]:
    """All metrics of a rule book for a model's output, (B,) each; see emlnet.metrics.score."""
    saliency = to_density(output, "density") if kind == "density" else output
    return score(
        saliency,
        targets.fixation_map(),
        targets.density,
        rules=rules,
        log_density=to_log_density(output, kind),
        **more,
    )


def _kind(model: nn.Module) -> Kind:
    kind = unwrap(model).kind
    assert kind in ("density", "eml")
    return kind  # type: ignore[return-value]
