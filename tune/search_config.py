"""One frozen tree per command, built from the configs of the rooms below."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from emlnet.losses.weighted import LossWeights
from emlnet.models.decoder import DecoderConfig
from emlnet.models.encoder import EncoderConfig
from emlnet.models.finetune import Finetune
from emlnet.training.state import Plan
from pipelines.config.options import Compute, FullCommand, Tracking
from shards.read.order import check_mix
from tune.objective import parse_objectives
from tune.proposals import Sampler
from tune.space import EQUAL, KL_LED, Space, short

ENCODER_SCALE, DECODER_SCALE = 0.5, 0.25
LENGTHS = ("num_trials", "max_hours", "final_seeds", "retry_failed", "first")
"""Fields of a search that may change when it goes on in its folder."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How weights are searched."""

    num_trials: int = 32
    """Weights to try, 1:1:1 among them; the same command with more goes on."""
    objective: str = "ig"
    """What trials are compared by: ig, nss, cc, kl, sim or auc on val, `tuebingen` rules; several,
    as nss,kl, give a Pareto front whose knee wins."""
    sampler: Sampler = "tpe"
    """How weights are proposed: `tpe` learns from the trials before (Optuna), `random` does not."""
    first: tuple[LossWeights, ...] = (KL_LED,)
    """Weights to try before any that the sampler draws, after 1:1:1."""
    trial_epochs: int = 0
    """Epochs of a trial; 0: as many as --epochs."""
    trial_scale: float = 0.0
    """Height and width of the pictures in trials, as a share of the real ones; 0: a half for an
    encoder, a quarter for the decoder."""
    warm_start_epochs: int = 0
    """Epochs of one shared training with 1:1:1 from which all trials of an encoder start."""
    stop_by: str = "auto"
    """Metric by which bad trials are stopped early (ASHA): `auto`: the objective if it is one,
    else `none`: never."""
    grace_epochs: int = 1
    """Epochs that each trial may train."""
    reduction: int = 3
    """One of so many trials goes on at each of ASHA's stops."""
    max_hours: float = 0.0
    """Hours after which no trial goes on, over all calls of the command; 0: no limit."""
    final_seeds: int = 3
    """Seeds with which the winner and 1:1:1 are trained in full and compared on the half of val
    that no trial is tuned on; 0 does not."""
    retry_failed: bool = False
    """Run trials again that failed when the same command ran before."""
    space: OmitArgPrefixes[Space] = field(default_factory=Space)

    def __post_init__(self) -> None:
        parse_objectives(self.objective)
        if self.stop_by not in ("auto", "none"):
            parse_objectives(self.stop_by)
            if "," in self.stop_by:
                raise ValueError(f"trials are stopped by one metric, not {self.stop_by}")
        if self.num_trials < 1 or self.reduction < 2 or self.grace_epochs < 1:
            raise ValueError("num_trials and grace_epochs are at least 1, reduction at least 2")
        if not 0 <= self.trial_scale <= 1:
            raise ValueError(f"a scale is above 0 and at most 1, not {self.trial_scale}")
        if min(self.trial_epochs, self.warm_start_epochs, self.final_seeds, self.max_hours) < 0:
            raise ValueError("epochs, seeds and hours are at least 0")

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that trials are compared by."""
        return parse_objectives(self.objective)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the search this one: all that may not change when it goes on."""
        return {k: v for k, v in asdict(self).items() if k not in LENGTHS}

    @property
    def lengths(self) -> dict[str, float]:
        """How far it goes."""
        return {name: getattr(self, name) for name in ("num_trials", "max_hours", "final_seeds")}

    @property
    def stops(self) -> bool:
        """Whether bad trials are stopped early."""
        return self.stop_by != "none" and not (self.stop_by == "auto" and len(self.objectives) > 1)

    @property
    def ranked_by(self) -> str:
        """The metric that the scheduler sees."""
        return self.objectives[0] if self.stop_by in ("auto", "none") else self.stop_by


@dataclass(frozen=True, kw_only=True)
class LossWeightsCommand:
    """Search the loss weights of an encoder, or with --decoder those of the decoder."""

    data: Path
    """Folder of shards."""
    decoder: tuple[str, ...] = ()
    """Encoders whose decoder is tuned, each an MLflow run, a folder, or a model URI."""
    search: OmitArgPrefixes[Search] = field(default_factory=Search)
    encoder: OmitArgPrefixes[EncoderConfig] = field(default_factory=EncoderConfig)
    finetune: OmitArgPrefixes[Finetune] = field(default_factory=Finetune)
    decoder_config: DecoderConfig = field(default_factory=DecoderConfig)
    readouts: Path | None = None
    """Folder of cached readouts, for all decoders; default: readouts/ beside the search."""
    plan: OmitArgPrefixes[Plan] = field(default_factory=Plan)
    seed: int = 0
    """Seed of every trial's weights, order and flips, and of the sampler."""
    compute: OmitArgPrefixes[Compute] = field(default_factory=Compute)
    tracking: OmitArgPrefixes[Tracking] = field(default_factory=Tracking)

    @property
    def scale(self) -> float:
        """Of the pictures in trials."""
        default = DECODER_SCALE if self.decoder else ENCODER_SCALE
        return self.search.trial_scale or default

    @property
    def trial_epochs(self) -> int:
        """Epochs of a trial."""
        return self.search.trial_epochs or self.plan.epochs


@dataclass(frozen=True, kw_only=True)
class SearchedFullCommand(FullCommand):
    """Search the loss weights on one backbone, then all stages of `pipelines full` with them."""

    search: OmitArgPrefixes[Search] = field(default_factory=Search)
    search_on: str | None = None
    """Which of the backbones the weights are searched on; default: the first."""

    @property
    def backbone(self) -> str:
        """The backbone that the weights are searched on."""
        return self.search_on or self.backbones[0]

    @property
    def full(self) -> FullCommand:
        """The stages after the search."""
        return FullCommand(**{each.name: getattr(self, each.name) for each in fields(FullCommand)})


def check(command: LossWeightsCommand) -> None:
    """Raises ValueError for what the command cannot mean."""
    search, plan = command.search, command.plan
    if plan.loss_weights != EQUAL:
        raise ValueError(
            "--loss-weights is what the search finds; leave it out, or name weights to try "
            "with --first"
        )
    if plan.select != Plan().select or plan.guard:
        raise ValueError(
            "trials keep the best epoch by --objective alone; leave --select and --guard out"
        )
    for weights in search.first:
        # The default is tried as far as the space holds it.
        if (lost := search.space.lost(weights)) and weights != KL_LED:
            told = ", ".join(f"{term} with {share:.0%} of the sum" for term, share in lost.items())
            raise ValueError(
                f"{short(weights)} are to be tried first, and weigh {told}, which the search "
                f"leaves out: it weighs {' '.join(search.space.terms)} with at least "
                f"{search.space.min_share:.0%} each; give --extra-terms, a smaller --min-share, or "
                "other weights (--first, in `full` also --loss-weights)"
            )
    if search.stops and search.grace_epochs > command.trial_epochs:
        raise ValueError(
            f"a trial has {command.trial_epochs} epochs, not the {search.grace_epochs} of "
            "--grace-epochs"
        )
    if command.decoder and search.warm_start_epochs:
        raise ValueError("--warm-start-epochs is for an encoder; the decoder's trials take seconds")
    if command.decoder and command.finetune != Finetune():
        raise ValueError("the decoder's encoders are frozen: leave out how to finetune one")
    if "width" in search.space.also and not command.decoder:
        packaged = Path(command.encoder.weights).expanduser().is_dir()
        if search.warm_start_epochs or packaged:
            raise ValueError(
                "readouts of another width cannot start from one "
                f"{'warm-up' if search.warm_start_epochs else 'packaged encoder'}: drop one"
            )


def check_full(command: SearchedFullCommand) -> None:
    """Raises ValueError for what the command cannot mean."""
    if len(command.full.data) > 1:
        raise ValueError(
            "a search takes one data set; search on one (`tune loss-weights`), then give "
            "`pipelines full` all of them with --loss-weights @FILE"
        )
    if command.mix:
        check_mix(command.data, command.mix)
    if command.backbone not in command.full.backbones:
        known = ", ".join(command.full.backbones)
        raise ValueError(f"--search-on {command.backbone} is none of the backbones {known}")
    if "width" in command.search.space.also:
        raise ValueError("`full` has one width of readouts; search it with `loss-weights`")
