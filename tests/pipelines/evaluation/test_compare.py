"""Paired differences, and which of two models they call better."""

import pytest

from pipelines.evaluation.compare import compare, difference_table
from tests.pipelines.tables import make_table


def test_the_gain_is_the_mean_of_the_differences_image_by_image() -> None:
    first = make_table({"a": {"mit_nss": [1.0, 2.0, 4.0, 2.0]}})
    second = make_table({"b": {"mit_nss": [0.5, 2.0, 3.0, 3.0]}})
    (found,) = compare(first, second)
    assert (found.first, found.second) == (2.25, 2.125)
    assert found.gain.mean == pytest.approx(0.125)
    assert found.wins == 0.625
    assert found.verdict == ""


def test_a_small_gain_on_every_image_is_certain_though_scores_vary_widely() -> None:
    values = [0.1 * image**2 for image in range(30)]
    first = make_table({"a": {"mit_nss": [value + 0.01 for value in values]}})
    (found,) = compare(first, make_table({"b": {"mit_nss": values}}))
    assert found.better
    assert found.gain.low == pytest.approx(0.01)


def test_images_without_a_value_in_either_are_left_out() -> None:
    first = make_table({"a": {"mit_nss": [1.0, float("nan"), 3.0]}})
    second = make_table({"b": {"mit_nss": [0.0, 1.0, float("nan")]}})
    (found,) = compare(first, second)
    assert (found.first, found.second, found.gain.num) == (1, 0, 1)


@pytest.mark.parametrize(
    ("what", "value"),
    [("data_digest", "e"), ("split", "test"), ("ig_baseline", "uniform"), ("best_maps", True)],
)
def test_scores_made_otherwise_are_not_compared(what: str, value: object) -> None:
    first = make_table({"a": {"mit_nss": [1.0]}})
    second = make_table({"b": {"mit_nss": [1.0]}}, **{what: value})
    with pytest.raises(ValueError, match=f"cannot be compared: {what} is"):
        compare(first, second)
    more = make_table({"b": {"mit_nss": [1.0, 2.0]}})
    with pytest.raises(ValueError, match="on different images"):
        compare(first, more)


def test_the_table_says_which_is_better() -> None:
    first = make_table({"a": {"mit_kl": [0.4, 0.3], "mit_nss": [1.0, 2.0]}})
    second = make_table({"b": {"mit_kl": [0.5, 0.6], "mit_nss": [2.0, 3.0]}})
    table = difference_table(compare(first, second, ["mit_nss", "mit_kl"]))
    assert table["the first is"].to_dict() == {"mit_nss": "worse", "mit_kl": "better"}
    assert table.loc["mit_kl"].tolist()[:3] == ["0.350", "0.550", "+0.2000"]
    assert table["wins"].tolist() == ["0%", "100%"]
