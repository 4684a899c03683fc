from __future__ import annotations

import pytest

from shards.read.folds import Fold, fold_of, split_in_folds
from shards.read.reader import ShardReader


@pytest.mark.parametrize("total", [2, 3])
def test_folds_are_disjoint_and_cover_all_samples(packed, total):
    reader = ShardReader(packed, "train")
    kept = [set(fold.leave_out(reader).keys) for fold in split_in_folds(reader, total)]
    left_out = [set(reader.keys) - keys for keys in kept]
    assert set.union(*left_out) == set(reader.keys)
    assert sum(map(len, left_out)) == len(reader)
    assert all(left_out)


def test_a_samples_fold_depends_on_its_name_only(packed):
    reader = ShardReader(packed, "train")
    backwards = reader.subset(range(len(reader))[::-1])
    fold = Fold(number=1, total=2)
    assert fold.leave_out(backwards).keys == fold.leave_out(reader).keys[::-1]
    # Cached readouts rest on these.
    assert [fold_of(f"train/{number}", 2) for number in range(8)] == [1, 0, 1, 1, 1, 0, 1, 1]


def test_folds_hold_about_equally_many_samples():
    numbers = [fold_of(f"train/{number}", 5) for number in range(5000)]
    assert all(900 < numbers.count(fold) < 1100 for fold in range(5))


def test_a_subset_keeps_the_numbers_of_samples_of_its_data_sets(packed):
    reader = ShardReader([packed, packed], "train")
    assert reader.subset([1, 3, 8]).parts == (2, 1)
    assert Fold(number=0, total=1).leave_out(reader).parts == (0, 0)


def test_more_folds_than_samples_are_refused(packed):
    with pytest.raises(ValueError, match=r"7 training pictures .* fall into \d of 8 folds"):
        split_in_folds(ShardReader(packed, "train"), 8)
