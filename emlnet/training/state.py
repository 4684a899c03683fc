"""The plan of a training, its state, and the report of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from emlnet.data.augment import Augmentation
from emlnet.losses import LossWeights, Terms
from emlnet.metrics.saliency_metrics import BY_NAME, metric_names
from emlnet.models.precision import Precision
from emlnet.models.saliency_network import SaliencyNetwork

if TYPE_CHECKING:
    SelectMetric = str
else:  # The choices on a command line: the metrics of the validation after each epoch.
    SelectMetric = Literal[metric_names("mit", ("saliency", "density", "fixations"))]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Training hyperparameters."""

    epochs: int = 4
    """Number of passes over the training images."""
    batch_size: int = 8
    """Images per step, over all workers."""
    lr: float = 1e-3
    """Peak learning rate of the head or decoder."""
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
    """Share of the steps in which a `one-cycle` learning rate rises."""
    step_epochs: int = 5
    """Epochs between drops of a `step` schedule."""
    clip_norm: float = 5.0
    """Gradients above this Euclidean norm are scaled down to it; 0: no limit."""
    loss_weights: LossWeights = field(default_factory=LossWeights)
    """Weights of the loss terms, such as kl=10,cc=2,nss=1; or @FILE or @RUN_ID of a search."""
    terms: Terms = "exact"
    """`exact` loss terms, or `reference`: the values of EML-NET's published training."""
    precision: Precision = "float32"
    """Number format of training steps: `float32`; `tf32`, float32 with matrix products in
    TF32 on a GPU that has it; `bfloat16`, with weights, loss and maps in float32."""
    flip: bool = True
    """Mirror each training picture with a probability of 1/2."""
    crop: float = 0.0
    """Show a random part of each training picture, its sides at least 1 - crop of the whole."""
    colour: float = 0.0
    """Change brightness, contrast and saturation of training pictures by at most this share."""
    ema: float = 0.0
    """Decay per step of the moving average of the weights; 0: no average.  If there is an average,
    it is validated and kept instead of the weights."""
    checkpoint_every: int = 0
    """Steps between checkpoints within an epoch; 0: only at the end of each epoch."""
    micro_batch: int = 0
    """Images that a worker passes through the model at once; 0: its whole share of the batch.
    A larger share is split, and the gradients of its parts are summed."""
    on_nan: Literal["stop", "skip"] = "stop"
    """For a loss or gradient that is not finite: `stop` at once, or `skip` and count the step."""
    select: SelectMetric = "kl"
    """Validation metric that chooses the best epoch."""
    guard: tuple[SelectMetric, ...] = ()
    """Metrics in which the best epoch must not be worse than the untrained decoder."""

    def __post_init__(self) -> None:
        minimum = {"epochs": 1, "batch_size": 1, "step_epochs": 1}
        for name in (*minimum, "micro_batch", "clip_norm", "ema", "warmup"):
            if not getattr(self, name) >= minimum.get(name, 0):
                value = getattr(self, name)
                raise ValueError(f"{name} must be at least {minimum.get(name, 0)}, not {value}")
        for name in ("ema", "warmup"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, not {getattr(self, name)}")
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, not {self.lr}")
        _ = self.augmentation  # Checks crop and colour.

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of training pictures."""
        return Augmentation(flip=self.flip, crop=self.crop, colour=self.colour)


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """The results of an epoch, counted from 1; epoch 0 is the untrained model."""

    epoch: int
    train_loss: dict[str, float]
    """Mean over the epoch's images of the total loss and of each unweighted term."""
    scores: dict[str, float]
    """Mean over the validation images of each metric, by the `mit` rules."""
    seconds: float
    """Wall time of the epoch and its validation."""
    best: bool
    """Whether this is the best epoch so far by the plan's metric."""
    skipped: int = 0
    """Steps skipped because their gradient was not finite."""
    unread: int = 0
    """Images of the epoch, in training and validation, that could not be read."""


@dataclass(kw_only=True)
class TrainState:
    """The state of a training, as a checkpoint holds it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Steps done in the current epoch."""
    loss_sums: Tensor | None = None
    """Sums over the images of all ranks in those steps: total loss, each term, number of images."""
    skipped: int = 0
    """Skipped steps of the current epoch."""
    history: list[EpochReport] = field(default_factory=list)
    average: AveragedModel | None = None
    """Moving average of the weights, with `Plan.ema`."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """Trained weights of the best epoch, on the CPU."""

    def end_epoch(self) -> None:
        """Count the epoch as finished and go to the first step of the next one."""
        self.epoch, self.step, self.loss_sums = self.epoch + 1, 0, None

    @property
    def validated_model(self) -> SaliencyNetwork:
        """The model that is validated and kept: the moving average if there is one."""
        return unwrap(self.model if self.average is None else self.average)


def start(model: nn.Module, plan: Plan, steps_per_epoch: int) -> TrainState:
    """Return the state before the first step, with optimizer, schedule and moving average."""
    groups = parameter_groups(unwrap(model), plan)
    optimizer: torch.optim.Optimizer
    options: dict[str, Any] = {"weight_decay": plan.weight_decay, "fused": True}
    if plan.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, **options)
    else:
        optimizer = torch.optim.SGD(groups, momentum=0.9, **options)
    schedule: LRScheduler
    if plan.schedule == "one-cycle":
        total_steps = plan.epochs * steps_per_epoch
        # OneCycleLR divides by zero for a warm-up of exactly one step.
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
    """Return the trainable parameters in groups by learning rate: backbone, readouts, the rest."""
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
    """Return CPU copies of the parameters and buffers of modules that are not frozen."""
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
    """Return the trainable parameters, in order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def is_better(scores: dict[str, float], than: dict[str, float], metric: str) -> bool:
    """Whether scores beat others by a metric; a NaN never does."""
    sign = BY_NAME[metric].sign
    first, second = sign * scores[metric], sign * than[metric]
    return first > second or (math.isnan(second) and not math.isnan(first))
