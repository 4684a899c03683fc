"""All commands of `python -m pipelines`.  Add one by a file in `commands/` and a line here."""

from __future__ import annotations

from pipelines.command_line import Program

TRAINING = "pipelines.commands.training"
EVALUATING = "pipelines.commands.evaluating"
MODELS = "pipelines.commands.models"
PROGRAMS = ("pipelines", "tune", "shards")
"""Programs whose commands `submit` can send."""

PIPELINES = Program(
    name="python -m pipelines",
    about="Train saliency models on a Ray cluster, score, register and browse them.",
    commands={
        "full": ("pipelines.stages.full:run", "all stages, from raw data to registry"),
        "build": (f"{TRAINING}.build_shards:run", "pack a data set into shards"),
        "encoder": (f"{TRAINING}.train_encoder:run", "finetune one encoder"),
        "decoder": (f"{TRAINING}.train_decoder:run", "join encoders by a decoder"),
        "readouts": (f"{TRAINING}.cache_readouts:run", "cache encoders' readouts"),
        "submit": (f"{TRAINING}.submit:run", "send a command to a Ray cluster"),
        "evaluate": (f"{EVALUATING}.evaluate_model:run", "score a model"),
        "score": (f"{EVALUATING}.score_folder:run", "score a folder of maps"),
        "compare": (f"{EVALUATING}.compare_models:run", "compare two models or folders of maps"),
        "export-board": (f"{EVALUATING}.export_board:run", "maps for a public board"),
        "backbones": (f"{EVALUATING}.list_backbones:run", "list the backbones"),
        "grid": (f"{EVALUATING}.map_grid:run", "draw maps of a model's encoders"),
        "predict": (f"{MODELS}.predict_pictures:run", "predict on a cluster"),
        "promote": (f"{MODELS}.promote_version:promote", "give a version an alias"),
        "rollback": (f"{MODELS}.promote_version:rollback", "give an alias back"),
        "runs": (f"{MODELS}.list_runs:run", "list MLflow runs as a table"),
        "ui": (f"{MODELS}.open_ui:run", "open MLflow's pages"),
    },
)
