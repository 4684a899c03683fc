"""Made-up scores and reports of epochs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from emlnet.models.encoder import EncoderConfig
from tune.trial import OpenSearch

TINY = EncoderConfig(backbone="tiny", weights="none", size=(96, 128))


def make_scores(ig: float, **more: float) -> dict[str, float]:
    """Scores that go with an information gain."""
    scores = {"ig": ig, "nss": 2 + ig, "cc": 0.5, "kl": 1 - ig / 2, "sim": 0.5, "auc": 0.8}
    return scores | more


def make_report(epoch: int, ig: float, **more: float) -> dict[str, Any]:
    """An EpochReport as a dict."""
    return {
        "epoch": epoch,
        "train_loss": {"total": 1.0},
        "scores": make_scores(ig, **more),
        "seconds": 2.0,
        "skipped": 0,
    }


def searching(search: OpenSearch, **changes: Any) -> OpenSearch:
    """The same search with other options."""
    command = replace(search.command, search=replace(search.command.search, **changes))
    return replace(search, command=command)
