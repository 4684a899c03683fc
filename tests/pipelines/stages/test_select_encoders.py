"""Choosing among encoders: which subsets are tried, on which images, and what is said of it."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest

from pipelines.stages.select_encoders import (
    Subset,
    SubsetResult,
    choose,
    describe_choice,
    split_in_halves,
)

COSTS = (0.5, 0.3, 0.4, 0.35, 0.6, 0.2)


def result(members: Subset, kl: float, held_out: float = 1.0) -> SubsetResult:
    rest = dict.fromkeys(("nss", "cc", "sim", "auc_judd"), 0.5)
    return SubsetResult(
        members=members, epoch=1, choosing={**rest, "kl": kl}, held_out={**rest, "kl": held_out}
    )


def judge(
    kl: Callable[[Subset], float], tried: list[Subset]
) -> Callable[[Sequence[Subset]], list[SubsetResult]]:
    def train(subsets: Sequence[Subset]) -> list[SubsetResult]:
        tried.extend(subsets)
        return [result(members, kl(members)) for members in subsets]

    return train


def alone_is_worse(members: Subset) -> float:
    return float(np.mean([COSTS[m] for m in members])) / len(members)


def test_of_up_to_four_encoders_every_subset_is_tried_once() -> None:
    tried: list[Subset] = []
    results, best = choose(4, "kl", judge(alone_is_worse, tried))
    expected = [m for number in range(1, 5) for m in combinations(range(4), number)]
    assert sorted(tried) == sorted(expected)
    assert [t.members for t in results] == expected
    assert best == (0, 1, 2, 3)


def test_of_more_the_best_subset_grows_by_the_best_encoder() -> None:
    tried: list[Subset] = []
    _, best = choose(6, "kl", judge(lambda m: abs(sum(COSTS[i] for i in m) - 0.81), tried))
    # 0.6 alone is nearest to .81, then 0.2 comes nearest; each third encoder is too much.
    assert best == (4, 5)
    assert len(tried) == len(set(tried)) <= 6 + 5 + 4 + 3 + 2 + 1 + 6


def test_a_number_of_encoders_can_be_asked_for() -> None:
    tried: list[Subset] = []
    _, best = choose(4, "kl", judge(lambda m: sum(COSTS[i] for i in m), tried), size=2)
    assert best == (1, 3)
    # The pairs, and what is left without one of the chosen.
    assert set(tried) == set(combinations(range(4), 2)) | {(1,), (3,)}


def test_of_equals_the_smaller_subset_is_chosen() -> None:
    _, best = choose(3, "kl", judge(lambda m: 0.5, []))
    assert best == (0,)


def test_a_metric_of_which_more_is_better_is_maximised() -> None:
    def train(subsets: Sequence[Subset]) -> list[SubsetResult]:
        return [
            SubsetResult(members=m, epoch=1, choosing={"nss": float(sum(m))}, held_out={})
            for m in subsets
        ]

    assert choose(3, "nss", train)[1] == (1, 2)


def test_trials_of_an_earlier_attempt_are_not_made_again() -> None:
    tried: list[Subset] = []
    known = [result((0,), 0.5), result((0, 1), 0.1)]
    choose(2, "kl", judge(alone_is_worse, tried), known=known)
    assert tried == [(1,)]


def test_the_halves_share_no_image_and_hold_them_all() -> None:
    choosing, held = split_in_halves(101, seed=0)
    assert sorted([*choosing, *held]) == list(range(101))
    assert abs(len(choosing) - len(held)) == 1
    assert not np.array_equal(choosing, split_in_halves(101, seed=1)[0])


def test_one_image_cannot_choose_and_score() -> None:
    with pytest.raises(ValueError, match="val has 1 pictures"):
        split_in_halves(1, seed=0)


def test_the_table_says_what_was_chosen_on_which_images() -> None:
    results = (result((0,), 0.5, 0.61), result((1,), 0.4, 0.62), result((0, 1), 0.3, 0.63))
    names, halves = ("encoder a", "encoder b"), (range(50), range(49))
    table = describe_choice(results, (0, 1), names, "kl", halves)
    lines = [line.split() for line in table.splitlines()]
    assert lines[1][:5] == ["nss", "cc", "kl", "sim", "auc_judd"]
    assert ["a", *["0.5000"] * 7, "0.6100", "0.5000", "0.5000"] in lines
    assert lines[4][:7] == ["a", "+", "b", "*", "0.5000", "0.5000", "0.3000"]
    assert "best kl on 50 validation images; the other 49 were held out" in table
