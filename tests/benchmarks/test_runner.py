from __future__ import annotations

import json

import pytest

from benchmarks.result_table import Row, save, table
from benchmarks.runner import Side, alternate, compare


def side(name, seconds, calls):
    def repeat():
        calls.append(name)
        return seconds

    return repeat


def hungry(mebibytes):
    """A repetition that fills so much memory, as a Side's target."""

    def repeat():
        print("no answer")
        return {"length": len(b"x" * (mebibytes << 20))}

    return repeat


def test_the_sides_take_turns_and_the_warm_up_does_not_count():
    calls = []
    row = compare("p", "b", side("o", 1.0, calls), side("b", 3.0, calls), repeats=4, warm=1)
    assert "".join(calls) == "bo" + "ob" + "bo" + "ob" + "bo"
    assert len(row.ours) == len(row.baseline) == 4
    assert row.ratio == 3
    assert row.reached is None


def test_three_sides_take_turns():
    calls = []
    sides = [side(name, seconds, calls) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    assert alternate(sides, repeats=2, warm=1) == [(1, 1), (2, 2), (3, 3)]
    assert "".join(calls) == "cba" + "abc" + "cba"


def test_the_ratio_is_of_medians_and_the_spread_of_pairs():
    row = Row(part="p", against="b", ours=(1, 2, 4), baseline=(6, 6, 6), reach=3.5)
    assert row.ratio == 3
    assert row.spread == (1.5, 6)
    assert row.reached is False


def test_a_limit_stands_for_a_baseline():
    row = Row(part="start-up", against="limit", ours=(10, 12, 14), baseline=(15,), reach=1)
    assert row.ratio == 1.25
    assert row.spread == (15 / 14, 1.5)


def test_a_side_of_its_own_process_tells_time_memory_and_notes():
    one = Side("tests.benchmarks.test_runner:hungry", mebibytes=100)
    assert one() > 0
    assert one.notes == {"length": 100 << 20}
    assert one.peaks[0] == pytest.approx(100 << 20, rel=0.3)
    one.close()
    assert one.process.returncode == 0


def test_a_side_that_cannot_start_says_so():
    with pytest.raises(RuntimeError, match="no_such_module"):
        Side("benchmarks.no_such_module:ours")


def test_results_are_written_with_machine_and_commit_and_as_a_table(tmp_path):
    rows = [Row(part="a part", against="a loop", ours=(0.1,) * 5, baseline=(0.2,) * 5, reach=3)]
    path = save("part", rows, threads=1, folder=tmp_path)
    content = json.loads(path.read_text())
    assert content["rows"][0]["ratio"] == 2
    assert {"cpu", "cores", "versions"} <= content["machine"].keys()
    text = (tmp_path / "table.md").read_text()
    assert text == table(tmp_path)
    assert "| 100 ms | 200 ms | 2.00 (2.00 to 2.00) | 3, **not reached** | 1 |" in text
