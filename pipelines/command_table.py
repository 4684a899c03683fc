"""All commands of `python -m pipelines`.  A new one is a file in `commands/` and a line here."""

from __future__ import annotations

from pipelines.command_line import CommandEntry, Program

TRAINING = "pipelines.commands.training"
EVALUATING = "pipelines.commands.evaluating"
MODELS = "pipelines.commands.models"
ROOMS = ("pipelines", "tune", "shards")
"""Programs whose commands `submit` sends."""

PIPELINES = Program(
    name="python -m pipelines",
    about="Train saliency models on a Ray cluster, score, register and browse them.",
    commands={
        "full": CommandEntry("pipelines.stages.full:run", "all stages, from raw data to registry"),
        "build": CommandEntry(f"{TRAINING}.build_shards:run", "pack a data set into shards"),
        "encoder": CommandEntry(f"{TRAINING}.train_encoder:run", "finetune one encoder"),
        "decoder": CommandEntry(f"{TRAINING}.train_decoder:run", "join encoders by a decoder"),
        "readouts": CommandEntry(f"{TRAINING}.cache_readouts:run", "cache encoders' readouts"),
        "submit": CommandEntry(f"{TRAINING}.submit:run", "send a command to a Ray cluster"),
        "evaluate": CommandEntry(f"{EVALUATING}.evaluate_model:run", "score a model"),
        "score": CommandEntry(f"{EVALUATING}.score_folder:run", "score a folder of maps"),
        "compare": CommandEntry(
            f"{EVALUATING}.compare_models:run", "compare two models or folders of maps"
        ),
        "export-board": CommandEntry(f"{EVALUATING}.export_board:run", "maps for a public board"),
        "backbones": CommandEntry(f"{EVALUATING}.list_backbones:run", "list the backbones"),
        "grid": CommandEntry(f"{EVALUATING}.map_grid:run", "draw maps of a model's encoders"),
        "predict": CommandEntry(f"{MODELS}.predict_pictures:run", "predict on a cluster"),
        "promote": CommandEntry(f"{MODELS}.promote_version:promote", "give a version an alias"),
        "rollback": CommandEntry(f"{MODELS}.promote_version:rollback", "take an alias back"),
        "runs": CommandEntry(f"{MODELS}.list_runs:run", "list MLflow runs as a table"),
        "ui": CommandEntry(f"{MODELS}.open_ui:run", "open MLflow's pages"),
    },
)
