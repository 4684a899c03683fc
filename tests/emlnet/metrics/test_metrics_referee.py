"""Metrics against pysaliency 0.2.22, whose scores lie in tests/data/pysaliency.npz."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from emlnet.metrics import saliency_metrics
from tests.emlnet import single_metrics

_SPEC = importlib.util.spec_from_file_location(
    "make_pysaliency_expected", Path(__file__).with_name("make_pysaliency_expected.py")
)
assert _SPEC is not None
assert _SPEC.loader is not None
_SCRIPT = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_SCRIPT)
_REAL, _EXPECTED = _SCRIPT.stored()
_CASES = {
    name: {key: torch.from_numpy(value) for key, value in case.items()}
    for name, case in _SCRIPT.cases(**_REAL).items()
}


def _agrees(found, name):
    torch.testing.assert_close(found, torch.from_numpy(_EXPECTED[name]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(_CASES))
def test_tuebingen_scores_equal_those_of_pysaliency(name):
    scores = saliency_metrics.score(**_CASES[name], rules="tuebingen")
    assert list(scores) == ["nss", "cc", "kl", "sim", "auc", "sauc", "ig"]
    for metric, values in scores.items():
        _agrees(values, f"{name}/{metric}")


@pytest.mark.parametrize("name", sorted(_CASES))
def test_one_by_one_the_functions_equal_pysaliency(name):
    c = _CASES[name]
    _agrees(single_metrics.nss(c["saliency"], c["fixations"]), f"{name}/nss")
    _agrees(single_metrics.cc(c["saliency"], c["density"]), f"{name}/cc")
    _agrees(single_metrics.kl(c["saliency"], c["density"]), f"{name}/kl")
    _agrees(single_metrics.sim(c["saliency"], c["density"]), f"{name}/sim")
    _agrees(single_metrics.auc(c["saliency"], c["fixations"]), f"{name}/auc")
    _agrees(single_metrics.sauc(c["saliency"], c["fixations"], c["nonfixations"]), f"{name}/sauc")
    _agrees(
        single_metrics.ig(c["log_density"], c["fixations"], c["baseline_log_density"]),
        f"{name}/ig",
    )


@pytest.mark.parametrize("name", sorted(_CASES))
def test_mit_kl_and_auc_judd_without_noise_equal_those_of_pysaliency(name):
    scores = saliency_metrics.score(**_CASES[name], rules="mit")
    _agrees(scores["auc_judd"], f"{name}/mit_auc_judd")
    _agrees(scores["kl"], f"{name}/mit_kl")


def test_float32_maps_score_like_the_referee_up_to_rounding():
    case = {name: maps.float() for name, maps in _CASES["real"].items()}
    for metric, values in saliency_metrics.score(**case).items():
        expected = torch.from_numpy(_EXPECTED[f"real/{metric}"])
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)


def test_the_stored_file_is_small_and_complete():
    assert _SCRIPT.EXPECTED.stat().st_size < 300_000
    assert all(np.isfinite(values).all() for values in _EXPECTED.values())
