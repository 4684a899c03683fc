"""What training is: a plan, the state that goes through it, and what an epoch reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from emlnet.data.augment import Augmentation
from emlnet.losses import LossWeights, Terms
from emlnet.models.precision import Precision
from emlnet.models.saliency_network import SaliencyNetwork

Metric = Literal["kl", "nss", "cc", "sim", "auc_judd"]
LOWER_IS_BETTER = ("kl",)
"""Metrics of which less is better."""


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
    """Weights of the loss terms, as in kl=10,cc=2,nss=1, or @FILE or @RUN of a search."""
    terms: Terms = "exact"
    """`exact` loss terms, or `reference`: the values of EML-NET's published training."""
    precision: Precision = "float32"
    """Of a training step's numbers: `float32`; `tf32`, the same but for products rounded to TF32 on
    a GPU that has it; `bfloat16`, where weights, loss and maps stay in float32."""
    flip: bool = True
    """Mirror each training picture with a chance of one half."""
    crop: float = 0.0
    """Show a random part of each training picture, its sides at least 1 - crop of the whole."""
    colour: float = 0.0
    """Change brightness, contrast and saturation of training pictures by at most this share."""
    ema: float = 0.0
    """Decay per step of the average of weights that is validated and kept; 0 keeps none."""
    checkpoint_every: int = 0
    """Steps between checkpoints within an epoch; 0 writes one at the end of each epoch."""
    micro_batch: int = 0
    """Images that a worker puts through the model at once; its share of a batch, when larger, goes
    through in parts, whose gradients add up.  0: the whole share."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite: `stop` at once, or `skip` its step and count it."""
    select: Metric = "kl"
    """Validation metric by which the best epoch is kept."""
    guard: tuple[Metric, ...] = ()
    """Validation metrics in which a kept epoch of a decoder is not worse than the untrained one."""

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is a decay in 0..1, not {self.ema}")
        _ = self.augmentation
        if self.micro_batch < 0:
            raise ValueError(f"micro_batch is at least 0, not {self.micro_batch}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the steps, 0 to below 1, not {self.warmup}")
        if self.step_epochs < 1:
            raise ValueError(f"step_epochs is at least 1, not {self.step_epochs}")
        if not self.clip_norm >= 0:
            raise ValueError(f"clip_norm is at least 0, not {self.clip_norm}")
        if self.epochs < 1 or self.batch_size < 1 or self.lr <= 0:
            raise ValueError(f"epochs and batch size are at least 1, lr is above 0: {self}")

    @property
    def augmentation(self) -> Augmentation:
        """The random changes of training pictures."""
        return Augmentation(flip=self.flip, crop=self.crop, colour=self.colour)


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
    skipped: int = 0
    """Steps left out because their gradient was not finite."""
    unread: int = 0
    """Images of the epoch, of training and validation, left out because they could not be read."""


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
    skipped: int = 0
    """Those of them that were left out, for a gradient that is not finite."""
    history: list[EpochReport] = field(default_factory=list)
    average: AveragedModel | None = None
    """Model of the moving average of the weights, with `Plan.ema`."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """Trained weights of the best epoch, on the CPU."""

    def end_epoch(self) -> None:
        """Count an epoch as finished; its next step is the first of the next epoch."""
        self.epoch, self.step, self.loss_sums = self.epoch + 1, 0, None

    @property
    def validated_model(self) -> SaliencyNetwork:
        """The model that is validated and kept: the moving average if there is one."""
        return unwrap(self.model if self.average is None else self.average)


def start(model: nn.Module, plan: Plan, steps_per_epoch: int) -> TrainState:
    """A fresh state: parameter groups with their learning rates, optimiser, schedule."""
    groups = parameter_groups(unwrap(model), plan)
    optimizer: torch.optim.Optimizer
    if plan.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay, fused=True)
    else:
        optimizer = torch.optim.SGD(
            groups, momentum=0.9, weight_decay=plan.weight_decay, fused=True
        )
    schedule: LRScheduler
    if plan.schedule == "one-cycle":
        total_steps = plan.epochs * steps_per_epoch
        # A warm-up of exactly one step makes OneCycleLR divide by zero.
        longer = 1 + 1e-9 if plan.warmup * total_steps == 1 else 1
        schedule = OneCycleLR(
            optimizer,
            [group["lr"] for group in groups],
            total_steps=total_steps,
            pct_start=plan.warmup * longer,
            cycle_momentum=False,
        )
    else:
        drops = range(plan.step_epochs, plan.epochs, plan.step_epochs)
        schedule = MultiStepLR(optimizer, [epoch * steps_per_epoch for epoch in drops])
    average = None
    if plan.ema:
        update = get_ema_multi_avg_fn(plan.ema)  # type: ignore[no-untyped-call]
        average = AveragedModel(unwrap(model), multi_avg_fn=update)
    return TrainState(model=model, optimizer=optimizer, schedule=schedule, average=average)


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


def unwrap(model: nn.Module) -> SaliencyNetwork:
    """Return the model inside DistributedDataParallel or AveragedModel."""
    inner = model.module if isinstance(model, DistributedDataParallel | AveragedModel) else model
    assert isinstance(inner, SaliencyNetwork), type(inner)
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


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes, in order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def better(scores: dict[str, float], than: dict[str, float], metric: str) -> bool:
    """Whether the first scores beat the second by that metric; a NaN never does."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    first, second = sign * scores[metric], sign * than[metric]
    return first > second or (math.isnan(second) and not math.isnan(first))
