"""The options of the commands, and checks that they fit together."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import OmitArgPrefixes

from emlnet.losses.weighted import LossWeights
from emlnet.models.decoder import DecoderConfig
from emlnet.models.encoder import EncoderConfig
from emlnet.models.finetune import Finetune
from emlnet.training.state import Plan
from pipelines.config.options import DECODER_PLAN, Compute, FullCommand, Tracking
from shards.read.order import check_mix
from tune.objective import parse_objectives
from tune.space import BASELINE_WEIGHTS, KL_LED, Space, short

ENCODER_SCALE, DECODER_SCALE = 0.5, 0.25
UNGUARDED_PLAN = replace(DECODER_PLAN, guard=(), loss_weights=BASELINE_WEIGHTS)
"""Plan of a decoder's trials: only the objective chooses the best epoch."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Options of a search."""

    num_trials: int = 32
    """Number of weights to try, 1:1:1 included; the same command with more extends the search."""
    objective: str = "ig"
    """Metric to compare trials by: ig, nss, cc, kl, sim or auc on val, `tuebingen` rules; several,
    such as nss,kl, give a Pareto front whose knee wins."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How Optuna proposes weights: `tpe` learns from earlier trials, `random` does not."""
    first: tuple[LossWeights, ...] = (KL_LED,)
    """Weights to try after 1:1:1 and before those that the sampler draws."""
    trial_epochs: int = 0
    """Epochs of a trial; 0: as many as --epochs."""
    trial_scale: float = 0.0
    """Height and width of the pictures in trials, as a share of the full size; 0: a half for an
    encoder, a quarter for the decoder."""
    stop_by: str = "auto"
    """Metric by which ASHA stops bad trials early.  `auto`: the objective; with several objectives
    no trial is stopped.  `none`: no trial is stopped."""
    grace_epochs: int = 1
    """Epochs before a trial may be stopped."""
    reduction: int = 3
    """ASHA's reduction factor: at each of its stops, one in this many trials continues."""
    max_hours: float = 0.0
    """Hours after which each call of the command stops its trials; 0: no limit."""
    final_seeds: int = 3
    """Number of seeds with which the winner and 1:1:1 are trained in full and compared, on the half
    of val that no trial is tuned on; 0: no final runs."""
    retry_failed: bool = False
    """Run the trials again that failed in an earlier call of the command."""
    space: OmitArgPrefixes[Space] = field(default_factory=Space)

    def __post_init__(self) -> None:
        parse_objectives(self.objective)
        if self.stop_by not in ("auto", "none"):
            parse_objectives(self.stop_by)
            if "," in self.stop_by:
                raise ValueError(f"--stop-by takes one metric, not {self.stop_by}")
        if self.num_trials < 1 or self.reduction < 2 or self.grace_epochs < 1:
            raise ValueError("num_trials and grace_epochs must be at least 1, reduction at least 2")
        if not 0 <= self.trial_scale <= 1:
            raise ValueError(f"a scale is above 0 and at most 1, not {self.trial_scale}")
        if min(self.trial_epochs, self.final_seeds, self.max_hours) < 0:
            raise ValueError("epochs, seeds and hours must be at least 0")

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that trials are compared by."""
        return parse_objectives(self.objective)

    @property
    def lengths(self) -> dict[str, int]:
        """Requested numbers of trials and of final seeds."""
        return {"num_trials": self.num_trials, "final_seeds": self.final_seeds}

    @property
    def unlimited(self) -> Search:
        """The search without the options that may change when it is resumed."""
        return replace(self, num_trials=1, final_seeds=0, retry_failed=False, first=())

    @property
    def ranked_by(self) -> str | None:
        """The metric by which bad trials are stopped early; None: no trial is stopped."""
        if self.stop_by == "auto":
            return self.objectives[0] if len(self.objectives) == 1 else None
        return None if self.stop_by == "none" else self.stop_by


@dataclass(frozen=True, kw_only=True)
class LossWeightsCommand:
    """Search the loss weights of an encoder, or with --decoder those of the decoder."""

    common_flags: ClassVar[tuple[str, ...]] = (
        "data", "decoder", "num_trials", "objective", "max_hours", "final_seeds", "backbone",
        "weights", "size", "epochs", "batch_size", "num_workers", "seed", "out", "tracking_uri",
    )  # fmt: skip
    data: Path
    """Folder of shards."""
    decoder: tuple[str, ...] = ()
    """Encoders whose decoder is tuned, each an MLflow run, a folder, or a model URI."""
    search: OmitArgPrefixes[Search] = field(default_factory=Search)
    encoder: OmitArgPrefixes[EncoderConfig] = field(default_factory=EncoderConfig)
    finetune: OmitArgPrefixes[Finetune] = field(default_factory=Finetune)
    decoder_config: DecoderConfig = field(default_factory=DecoderConfig)
    readouts: Path | None = None
    """Folder of cached readouts, shared by all decoders; default: readouts/ beside the search."""
    plan: OmitArgPrefixes[Plan] = field(default_factory=Plan)
    seed: int = 0
    """Seed of every trial's weights, order and flips, and of the sampler."""
    compute: OmitArgPrefixes[Compute] = field(default_factory=Compute)
    tracking: OmitArgPrefixes[Tracking] = field(default_factory=Tracking)

    @property
    def scale(self) -> float:
        """Scale of the pictures in trials."""
        default = DECODER_SCALE if self.decoder else ENCODER_SCALE
        return self.search.trial_scale or default

    @property
    def trial_epochs(self) -> int:
        """Epochs of a trial."""
        return self.search.trial_epochs or self.plan.epochs


@dataclass(frozen=True, kw_only=True)
class DecoderWeightsCommand(LossWeightsCommand):
    """Search the loss weights of a decoder over the named encoders."""

    plan: OmitArgPrefixes[Plan] = UNGUARDED_PLAN


@dataclass(frozen=True, kw_only=True)
class SearchedFullCommand(FullCommand):
    """Search the loss weights on one backbone, then run `pipelines full` with them."""

    common_flags: ClassVar[tuple[str, ...]] = (
        "search_on", "num_trials", "objective", "max_hours", "final_seeds",
        *(name for name in FullCommand.common_flags if name != "loss_weights"),
    )  # fmt: skip
    search: OmitArgPrefixes[Search] = field(default_factory=Search)
    search_on: str | None = None
    """Backbone to search the weights on; default: the first."""

    @property
    def backbone(self) -> str:
        """The backbone that the weights are searched on."""
        return self.search_on or self.backbones[0]

    @property
    def full(self) -> FullCommand:
        """The command for the stages after the search."""
        names = [option.name for option in fields(FullCommand)]
        return FullCommand(**{name: getattr(self, name) for name in names})


def check(command: LossWeightsCommand) -> None:
    """Raise ValueError for options that contradict each other."""
    search, plan = command.search, command.plan
    if plan.loss_weights != BASELINE_WEIGHTS:
        raise ValueError(
            "the search finds --loss-weights: drop it, or name weights to try with --first"
        )
    if plan.select != Plan().select or plan.guard:
        raise ValueError("--objective chooses the best epoch: drop --select and --guard")
    for weights in search.first:
        # A weight of the default below a large --min-share becomes 0.
        if (excluded := search.space.excluded(weights)) and weights != KL_LED:
            shares = ", ".join(f"{term} with {s:.0%} of the sum" for term, s in excluded.items())
            raise ValueError(
                f"{short(weights)} is outside the search space ({shares}): it has the terms "
                f"{' '.join(search.space.terms)}, each with at least {search.space.min_share:.0%}; "
                "give --extra-terms, a smaller --min-share, or other weights (--first, in `full` "
                "also --loss-weights)"
            )
    if command.decoder and command.finetune != Finetune():
        raise ValueError("the encoders of a decoder are frozen: drop the options of finetuning")
    packaged = Path(command.encoder.weights).expanduser().is_dir()
    if "width" in search.space.also and not command.decoder and packaged:
        raise ValueError(
            "the readout width of a packaged encoder is fixed; drop --also width or the package"
        )


def check_full(command: SearchedFullCommand) -> None:
    """Raise ValueError for options that contradict each other."""
    if len(command.data) > 1:
        raise ValueError(
            "a search takes one data set: search on one (`tune loss-weights`), then give "
            "`pipelines full` all of them with --loss-weights @FILE"
        )
    if command.mix:
        check_mix(command.data, command.mix)
    if command.backbone not in command.backbones:
        known = ", ".join(command.backbones)
        raise ValueError(f"--search-on {command.backbone} is not one of the backbones {known}")
    if "width" in command.search.space.also:
        raise ValueError(
            "`full` does not search the readout width: use `tune loss-weights --also width`"
        )
