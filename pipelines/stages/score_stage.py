"""Score a run's models and the baselines on val, and pick the best model."""

from __future__ import annotations

from collections.abc import Sequence

from emlnet.inference import package
from emlnet.metrics.saliency_metrics import METRICS
from pipelines.evaluation import evaluate, score_table
from pipelines.evaluation.compare import METRIC
from pipelines.evaluation.sources import MODEL, ModelSource
from pipelines.stages.run_context import RunContext
from pipelines.tracking.provenance import data_tags
from pipelines.tracking.run_folder import StageResult
from shards.read.reader import ShardReader


def score(
    context: RunContext, results: Sequence[StageResult], flip: bool
) -> score_table.ScoreTable:
    """Score the decoder's model, its encoders and the baselines, in an MLflow run of its own.

    results: encoders, then the decoder.  flip: average each map with the mirrored picture's.
    Each stage's run gets its own row, as `scores/<metric>`, so that all can be sorted by one.
    """
    folder, tracker, decoder = context.folder / "evaluation", context.tracker, results[-1]
    reader = ShardReader(context.data[0], "val")
    folder.mkdir(exist_ok=True)
    with tracker.run(
        folder,
        "evaluation val",
        params={"split": "val", "flip": flip, "model": decoder.run_id},
        tags=data_tags("evaluation", reader.manifest),
        parent=context.parent,
        data=(context.data[0], reader.manifest),
    ) as run_id:
        scores = evaluate.evaluate(
            [ModelSource(model=package.load(decoder.package).model, flip=flip)],
            reader,
            title=f"scores of {decoder.name}",
            use_gpu=context.compute.use_gpu,
            about={"flip": flip},
        ).renamed(MODEL, decoder.name)
        means = scores.means
        for result in results:
            tracker.metrics(result.run_id, score_table.as_metrics(means[result.name]))
        tracker.metrics(run_id, score_table.as_metrics(means[decoder.name]))
        score_table.write_parquet(folder / score_table.PARQUET, scores)
        tracker.file(run_id, folder / score_table.PARQUET)
        mirrored = ", mirrored: each map averaged with the mirrored picture's" if flip else ""
        tracker.describe(
            run_id,
            f"{len(results)} models and baselines on the {len(reader)} pictures of "
            f"{reader.manifest.name}/val{mirrored}.\n\n{score_table.markdown(means)}",
        )
    return scores


def pick_best(scores: score_table.ScoreTable, results: Sequence[StageResult]) -> StageResult:
    """Return the trained model with the best mean score, the first of equals."""
    sign = METRICS[METRIC].sign
    return max(results, key=lambda result: sign * scores.of(result.name)[METRIC].mean())
