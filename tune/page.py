"""A search as one HTML file that needs nothing else, and its figures as files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from emlnet.losses.weighted import LossWeights
from tune import search_plots
from tune.importance import common_epoch, importance
from tune.live import duration
from tune.pareto import Choice, name, rank
from tune.results import TrialRecord
from tune.search_report import COLUMNS, Comparison, final_rows, marks
from tune.space import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_page(
    path: Path,
    records: Sequence[TrialRecord],
    choice: Choice,
    final: Comparison | None,
    content: dict[str, Any],
    terms: Sequence[str],
) -> list[Path]:
    """Writes the page, whole or not at all, and beside it each figure as a PNG; their files.

    content: of best-weights.json.  terms: the loss terms that were weighed.
    """
    figures = _figures(records, choice, content["objectives"], terms)
    files = []
    for file, (figure, _) in figures.items():
        files.append(path.with_name(f"{file}.png"))
        figure.savefig(files[-1])
    template = jinja2.Environment(autoescape=True).from_string(
        Path(__file__).with_suffix(".html").read_text()
    )
    columns = [search_plots.label(metric, unit=False) for metric in COLUMNS]
    text = template.render(
        title=f"Loss weights of {content['subject']} on {content['data']['name']}",
        verdict=content["verdict"],
        weights=short(LossWeights(**content["weights"])),
        facts=_facts(records, content),
        columns=columns,
        num_seeds=final.num_seeds if final else 0,
        final_rows=_final_rows(choice, final) if final else [],
        figures=[{"svg": _svg(f), "caption": caption} for f, caption in figures.values()],
        rows=_rows(records, choice, content["objectives"][0]),
    )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
    return files


def _figures(
    records: Sequence[TrialRecord], choice: Choice, objectives: Sequence[str], terms: Sequence[str]
) -> dict[str, tuple[Figure, str]]:
    """Each figure by the name of its file, with its caption."""
    across, up = search_plots.axes_of(objectives)
    figures = {
        "pareto": (
            search_plots.pareto(records, choice, objectives),
            f"Every trial by {across.upper()} and {up.upper()}; up arrows: more is better. "
            f"The winner is {choice.reason}.",
        ),
        "parallel": (
            search_plots.parallel(records, choice, objectives, terms),
            "A line for each trial: the share of each term in the sum of the weights, then the "
            "scores.",
        ),
        "learning": (
            search_plots.learning(records, choice, objectives[0]),
            f"{objectives[0].upper()} after each epoch. Grey trials were stopped early.",
        ),
    }
    matters = importance(records, objectives[0], terms)
    if matters:
        figures["importance"] = (
            search_plots.bars(matters, objectives[0]),
            f"What matters to {objectives[0].upper()} after epoch {common_epoch(records)}, which "
            "all trials have: functional ANOVA over the shares. The shares sum to 1, so they "
            "share what they explain.",
        )
    return figures


def _facts(records: Sequence[TrialRecord], content: dict[str, Any]) -> list[tuple[str, str]]:
    cost = content["cost"]
    states = ("finished", "stopped", "failed")
    counts = {state: sum(record.state == state for record in records) for state in states}
    return [
        ("data", f"{content['data']['name']}, {content['data']['digest'][:16]}"),
        (
            "objective",
            ", ".join(search_plots.label(each, unit=False) for each in content["objectives"]),
        ),
        (
            "trials",
            f"{len(records)}: {counts['finished']} finished, {counts['stopped']} stopped early, "
            f"{counts['failed']} failed",
        ),
        (
            "cost",
            f"{cost['trial_epochs']} epochs of trials in {duration(cost['seconds'])}; all trials "
            f"in full are {cost['full_epochs']} epochs",
        ),
        ("seed", str(content["seed"])),
        ("MLflow run", content["run_id"]),
    ]


def _rows(records: Sequence[TrialRecord], choice: Choice, objective: str) -> list[dict[str, Any]]:
    ranked = rank(records, objective)
    rows = []
    for record in [*ranked, *(each for each in records if each not in ranked)]:
        values = [f"{record.scores[c]:.4f}" if record.scores else "" for c in COLUMNS]
        kind: str = record.state
        if record.is_baseline:
            kind += " baseline"
        if record.spec == choice.winner.spec:
            kind += " winner"
        notes = [*marks(record, choice), *([f"failed: {record.cause}"] if record.cause else [])]
        rows.append(
            {
                "name": name(record),
                "values": [*values, record.num_trained, f"{record.seconds:.0f}"],
                "notes": ", ".join(notes),
                "kind": kind,
            }
        )
    return rows


def _final_rows(choice: Choice, final: Comparison) -> list[dict[str, Any]]:
    kinds = ("winner", "baseline", "", "")
    return [
        {"name": row, "values": [values[c] for c in COLUMNS], "kind": kind}
        for (row, values), kind in zip(final_rows(choice, final), kinds, strict=False)
    ]


def _svg(figure: Figure) -> str:
    """A figure as an element of the page."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # Text stays text; names of parts are the same each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "search"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
