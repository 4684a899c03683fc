"""`python -m pipelines encoder`: finetune one encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tyro.conf import OmitArgPrefixes

from emlnet.models.encoder import EncoderConfig
from emlnet.models.finetune import Finetune
from pipelines.config.options import TrainingCommand
from pipelines.stages.encoder_stage import encoder_stage
from pipelines.stages.run_context import start_run
from pipelines.stages.stage import print_result
from pipelines.tracking.run_folder import StageResult


@dataclass(frozen=True, kw_only=True)
class EncoderCommand(TrainingCommand):
    """Finetune one encoder: an MLflow run with the packaged encoder."""

    common_flags: ClassVar[tuple[str, ...]] = (
        "data", "backbone", "weights", "size", "epochs", "batch_size", "lr", "loss_weights",
        "num_workers", "use_gpu", "seed", "out", "tracking_uri",
    )  # fmt: skip
    encoder: OmitArgPrefixes[EncoderConfig] = field(default_factory=EncoderConfig)
    finetune: OmitArgPrefixes[Finetune] = field(default_factory=Finetune)


def run(command: EncoderCommand) -> StageResult:
    """Finetune an encoder, or resume."""
    backbone = command.encoder.backbone
    context = start_run(command, "encoder", backbone, weights=[command.encoder.weights])
    stage = encoder_stage(
        context,
        command,
        f"encoder {backbone}",
        "encoder",
        command.encoder,
        command.finetune,
        command.seed,
    )
    result = stage.run()
    print_result(result)
    return result
