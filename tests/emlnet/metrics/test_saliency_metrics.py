"""Metrics on maps whose scores are known, and what they take."""

import math

import pytest
import torch

from emlnet.metrics import saliency_metrics
from tests.emlnet import single_metrics
from tests.emlnet.random_gaze import SEEDS, SIZE, count_map, random_looks, random_maps


def _log_density(maps):
    return maps.flatten(1).log_softmax(1).view_as(maps)


def _inputs(**changes):
    """All inputs of `score` for two images."""
    saliency = changes.get("saliency", random_maps(0))
    return {
        "saliency": saliency,
        "density": random_maps(2),
        "fixations": random_looks(1),
        "nonfixations": random_looks(4, num=30),
        "log_density": _log_density(saliency),
        "baseline_log_density": _log_density(random_maps(3)),
        "seeds": SEEDS,
        **changes,
    }


def _score(rules, **changes):
    return saliency_metrics.score(**_inputs(**changes), rules=rules)


# --- known scores


def test_a_one_hot_map_at_its_only_fixation_scores_as_written():
    one_hot = count_map((5, 3))
    num = one_hot.numel()
    scores = saliency_metrics.score(one_hot, one_hot, one_hot)
    assert scores["nss"].item() == pytest.approx(math.sqrt(num - 1))
    assert scores["cc"].item() == pytest.approx(1)
    assert scores["kl"].item() == pytest.approx(0, abs=1e-12)
    assert scores["sim"].item() == pytest.approx(1)
    assert scores["auc"].item() == pytest.approx(1 - 0.5 / num)
    mit = saliency_metrics.score(one_hot, one_hot, one_hot, rules="mit")
    assert mit["nss"].item() == pytest.approx((num - 1) / math.sqrt(num))
    assert mit["auc_judd"].item() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 255.0, -2.0])
@pytest.mark.parametrize("rules", ["mit", "tuebingen"])
def test_a_constant_map_scores_chance_and_is_uniform_as_a_density(value, rules):
    constant = torch.full((2, 1, *SIZE), value, dtype=torch.float64)
    scores = _score(rules, saliency=constant)
    uniform = _score(rules, saliency=torch.ones_like(constant))
    assert scores["nss"].tolist() == [0, 0]
    assert scores["cc"].tolist() == [0, 0]
    for name in scores.keys() & {"auc", "auc_judd", "auc_borji", "sauc"}:
        assert scores[name].tolist() == [0.5, 0.5]
    for name in ("kl", "sim"):
        torch.testing.assert_close(scores[name], uniform[name])


@pytest.mark.parametrize("rules", ["mit", "tuebingen"])
def test_a_map_against_itself_is_perfect(rules):
    maps = random_maps(5)
    assert single_metrics.cc(maps, maps).tolist() == pytest.approx([1, 1])
    assert single_metrics.kl(maps, maps, rules).tolist() == pytest.approx([0, 0], abs=1e-12)
    assert single_metrics.sim(maps, maps, rules).tolist() == pytest.approx([1, 1])


def test_kl_of_two_gaussians_is_the_closed_form_in_nats():
    x = torch.arange(401, dtype=torch.float64) - 200

    def gaussian(mean, sigma):
        return torch.exp(-((x - mean) ** 2) / (2 * sigma**2)).view(1, 1, 1, -1)

    expected = math.log(20 / 10) + (10**2 + 5**2) / (2 * 20**2) - 0.5
    found = single_metrics.kl(gaussian(5, 20), gaussian(0, 10))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_ig_of_a_density_twice_the_baseline_at_fixations_is_one_bit():
    baseline = torch.full((1, 1, 2, 4), math.log(1 / 8))
    model = torch.tensor([0.25, 0.25, 0.25, 0.05, 0.05, 0.05, 0.05, 0.05]).log().view(1, 1, 2, 4)
    fixations = count_map((0, 0), (1, 0), (1, 0), size=(2, 4))
    assert single_metrics.ig(model, fixations, baseline).item() == pytest.approx(1, abs=1e-6)
    assert single_metrics.ig(baseline, fixations, baseline).item() == 0


def test_mit_ig_scales_both_maps_before_it_divides_by_the_sum():
    saliency = torch.tensor([1.0, 2, 3, 5]).view(1, 1, 1, 4)  # (0, 1, 2, 4) / 7
    baseline = torch.tensor([1.0, 2, 2, 3]).log().view(1, 1, 1, 4)  # (0, 1, 1, 2) / 4
    fixations = count_map((1, 0), (3, 0), (3, 0), size=(1, 4))
    expected = (math.log2((1 / 7) / (1 / 4)) + math.log2((4 / 7) / (2 / 4))) / 2
    found = single_metrics.ig(saliency, fixations, baseline, rules="mit")
    assert found.item() == pytest.approx(expected)


def test_known_areas_with_and_without_ties():
    saliency = torch.tensor([4.0, 3, 2, 1]).view(1, 1, 1, 4)
    fixations = count_map((0, 0), (2, 0), size=(1, 4))
    # Pairs won of 2 x 4, a fixated pixel ties with itself.
    assert single_metrics.auc(saliency, fixations).item() == (3.5 + 1.5) / 8
    # Points (0, 0), (0, .5), (.5, 1), (1, 1).
    assert single_metrics.auc_judd(saliency, fixations).item() == 0.875
    tied = torch.tensor([2.0, 2, 2, 1]).view(1, 1, 1, 4)
    assert single_metrics.auc(tied, fixations).item() == (2.5 + 2.5) / 8
    # One point (.5, 1) between (0, 0) and (1, 1).
    assert single_metrics.auc_judd(tied, fixations).item() == 0.75


# --- each error that common metric code makes


def test_every_fixated_pixel_counts_not_only_repeated_ones():
    saliency = torch.zeros(1, 1, *SIZE)
    saliency[0, 0, 2, 3] = 1
    looks = count_map((3, 2), (7, 7), (7, 7))
    lone, both = count_map((3, 2)), count_map((3, 2), (7, 7))
    high, low = (
        single_metrics.nss(saliency, lone),
        single_metrics.nss(saliency, count_map((7, 7))),
    )
    torch.testing.assert_close(single_metrics.nss(saliency, looks), (high + 2 * low) / 3)
    mit = single_metrics.nss(saliency, looks, rules="mit")
    torch.testing.assert_close(mit, single_metrics.nss(saliency, both, rules="mit"))


def test_judd_leaves_the_fixated_pixels_out_of_the_false_positives():
    saliency = torch.arange(192.0).view(1, 1, *SIZE)
    top_three = count_map((15, 11), (14, 11), (13, 11))
    assert single_metrics.auc_judd(saliency, top_three).item() == 1
    bottom = count_map((0, 0))
    # Straight from (0, 0) to (1, 1), reached with the last threshold.
    assert single_metrics.auc_judd(saliency, bottom).item() == 0.5


def test_rows_and_columns_of_nonfixations_are_not_swapped():
    saliency = torch.zeros(1, 1, *SIZE)
    saliency[0, 0, 2, 9] = 1  # Row 2, column 9.
    seen = count_map((9, 2))
    assert single_metrics.sauc(saliency, seen, count_map((9, 2))).item() == 0.5
    assert single_metrics.sauc(saliency, seen, count_map((2, 9))).item() == 1
    seeds = torch.tensor([0])
    assert (
        single_metrics.sauc(saliency, seen, count_map((2, 9)), rules="mit", seeds=seeds).item()
        > 0.9
    )


def test_nss_subtracts_the_mean_and_divides_by_the_deviation():
    saliency = torch.tensor([10.0, 12, 14, 12]).view(1, 1, 1, 4)  # Mean 12, deviation sqrt(2).
    found = single_metrics.nss(saliency, count_map((2, 0), size=(1, 4)))
    assert found.item() == pytest.approx(2 / math.sqrt(2))
    found = single_metrics.nss(saliency, count_map((2, 0), size=(1, 4)), rules="mit")
    assert found.item() == pytest.approx(2 / math.sqrt(8 / 3))


@pytest.mark.parametrize("rules", ["mit", "tuebingen"])
def test_an_image_scores_alike_alone_and_in_any_batch(rules):
    def part(rows):
        inputs = {name: given[rows] for name, given in _inputs().items()}
        return saliency_metrics.score(**inputs, rules=rules)

    # One value per image: the mean over images doesn't depend on how they were batched.
    together, reverse, alone = part([0, 1]), part([1, 0]), part([1])
    for name, values in together.items():
        torch.testing.assert_close(reverse[name].flip(0), values, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(alone[name], values[1:], rtol=1e-12, atol=1e-14)


# --- input


@pytest.mark.parametrize("rules", ["mit", "tuebingen"])
def test_an_image_without_fixations_gets_nan_where_they_are_needed(rules):
    fixations = random_looks(1)
    fixations[0] = 0
    scores = _score(rules, fixations=fixations)
    for name, values in scores.items():
        needs = saliency_metrics.METRICS[f"{rules}_{name}"].needs
        assert values[0].isnan().item() == ("fixations" in needs)
        assert values[1].isfinite().item()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_not_finite_is_refused_with_its_position(value):
    saliency = random_maps(0)
    saliency[1, 0, 3, 3] = value
    with pytest.raises(ValueError, match="saliency of image 1 must be finite"):
        saliency_metrics.score(saliency, random_looks(1), random_maps(2))


def test_the_position_is_that_in_the_whole_batch_when_images_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(saliency_metrics, "PIXELS_AT_ONCE", 1)
    expected = _score("tuebingen")
    saliency = random_maps(0)
    saliency[1, 0, 3, 3] = math.nan
    with pytest.raises(ValueError, match="saliency of image 1 must be finite"):
        single_metrics.nss(saliency, random_looks(1))
    monkeypatch.undo()
    for name, values in _score("tuebingen").items():
        torch.testing.assert_close(values, expected[name], rtol=1e-12, atol=1e-14)


def test_a_log_density_may_be_minus_infinity_where_nobody_looks():
    log_density, baseline = _log_density(random_maps(0)), _log_density(random_maps(3))
    fixations = count_map((2, 2), (3, 3)).expand(2, -1, -1, -1)
    expected = single_metrics.ig(log_density, fixations, baseline)
    log_density[:, 0, 0, 0] = -math.inf
    assert torch.equal(single_metrics.ig(log_density, fixations, baseline), expected)
    log_density[0, 0, 2, 2] = -math.inf
    assert single_metrics.ig(log_density, fixations, baseline)[0].item() == -math.inf


def test_wrong_shapes_counts_and_missing_seeds_are_named():
    with pytest.raises(ValueError, match=r"density is \(2, 1, 3, 4\), saliency \(2, 1, 12, 16\)"):
        single_metrics.cc(random_maps(0), random_maps(0, 3, 4))
    with pytest.raises(ValueError, match=r"saliency must be \(B, 1, H, W\)"):
        single_metrics.nss(random_maps(0)[:, 0], random_looks(1))
    with pytest.raises(ValueError, match="fixations of image 0 must be counts"):
        single_metrics.nss(random_maps(0), -random_looks(1))
    with pytest.raises(ValueError, match="sauc needs seeds"):
        single_metrics.sauc(random_maps(0), random_looks(1), random_looks(4), rules="mit")


def test_a_batch_of_none_scores_none():
    scores = saliency_metrics.score(random_maps(0)[:0], random_looks(1)[:0], random_maps(2)[:0])
    assert all(values.shape == (0,) for values in scores.values())


def test_other_images_are_ten_distinct_ones_and_never_the_image_itself():
    index = torch.arange(40)
    others = saliency_metrics.other_images(index, 40)
    assert others.shape == (40, 10)
    for own, row in enumerate(others.tolist()):
        assert len(set(row) - {own}) == 10
    assert torch.equal(saliency_metrics.other_images(index[7:9], 40), others[7:9])
    with pytest.raises(ValueError, match="each image needs 10 others; there are only 8 images"):
        saliency_metrics.other_images(torch.arange(8), 8)


# --- the table


@pytest.mark.parametrize("full_name", saliency_metrics.METRICS)
def test_each_row_scores_alone_as_together_and_names_what_it_lacks(full_name):
    rules, _, name = full_name.partition("_")
    row, inputs = saliency_metrics.METRICS[full_name], _inputs()
    together = saliency_metrics.score(**inputs, rules=rules)
    assert list(together) == list(saliency_metrics.metric_names(rules, inputs))
    needed = {key: inputs[key] for key in row.needs}
    (alone,) = saliency_metrics.score(**needed, rules=rules, names=(name,)).values()
    assert torch.equal(alone, together[name])
    assert (alone.shape, alone.dtype) == ((2,), torch.float64)
    needed.pop(row.needs[-1])
    with pytest.raises(ValueError, match=f"{name} needs {row.needs[-1]}"):
        saliency_metrics.score(**needed, rules=rules, names=(name,))
    other = saliency_metrics.BY_NAME[name]
    assert (row.label, row.unit, row.sign) == (other.label, other.unit, other.sign)


@pytest.mark.parametrize("full_name", saliency_metrics.METRICS)
def test_the_data_itself_is_better_than_a_map_unlike_it(full_name):
    rules, _, name = full_name.partition("_")
    row, fixations = saliency_metrics.METRICS[full_name], random_looks(1)
    right, wrong = fixations + 0.01, fixations.flip(-1) + 0.01
    values = []
    for saliency in (right, wrong):
        inputs = _inputs(
            saliency=saliency,
            density=fixations,
            log_density=_log_density(saliency.log()),
            baseline_log_density=_log_density(torch.zeros_like(saliency)),
        )
        values.append(saliency_metrics.score(**inputs, rules=rules, names=(name,))[name])
    assert (row.sign * (values[0] - values[1]) > 0).all()


def test_an_unknown_metric_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown metric 'mit_auc'; known: mit_nss, mit_cc"):
        saliency_metrics.find_metric("mit_auc")
