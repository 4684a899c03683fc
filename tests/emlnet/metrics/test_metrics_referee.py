"""Metrics against pysaliency 0.2.22, whose scores lie in tests/data/pysaliency.npz."""

import pytest
import torch

from emlnet.metrics import saliency_metrics
from tests.emlnet.metrics import make_pysaliency_expected

_REAL, _EXPECTED = make_pysaliency_expected.stored()
_CASES = {
    name: {key: torch.from_numpy(value) for key, value in case.items()}
    for name, case in make_pysaliency_expected.cases(**_REAL).items()
}
NAMES = ("nss", "cc", "kl", "sim", "auc", "sauc", "ig")
"""Metrics that pysaliency has."""


def _agrees(found, name):
    torch.testing.assert_close(found, torch.from_numpy(_EXPECTED[name]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(_CASES))
def test_tuebingen_scores_equal_those_of_pysaliency(name):
    scores = saliency_metrics.score(**_CASES[name], rules="tuebingen", names=NAMES)
    for metric, values in scores.items():
        _agrees(values, f"{name}/{metric}")


@pytest.mark.parametrize("name", sorted(_CASES))
def test_mit_kl_and_auc_judd_without_noise_equal_those_of_pysaliency(name):
    scores = saliency_metrics.score(**_CASES[name], rules="mit")
    _agrees(scores["auc_judd"], f"{name}/mit_auc_judd")
    _agrees(scores["kl"], f"{name}/mit_kl")


def test_float32_maps_score_like_the_referee_up_to_rounding():
    case = {name: maps.float() for name, maps in _CASES["real"].items()}
    for metric, values in saliency_metrics.score(**case, names=NAMES).items():
        expected = torch.from_numpy(_EXPECTED[f"real/{metric}"])
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)
