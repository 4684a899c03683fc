from __future__ import annotations

from shards.__main__ import main


def test_build_then_verify(tiny, tmp_path, capsys):
    out = str(tmp_path / "out")
    main(["build", str(tiny.path), out, "--splits", "train", "val", "--shard-size", "4"])
    main(["verify", out])
    printed = capsys.readouterr().out
    assert "raw: train 7 samples in 2 shards, val 2 samples in 1 shards" in printed
    assert "dropped: 0 samples, 0 fixations outside their image, 7 empty obs" in printed
    assert printed.splitlines()[-1].startswith("ok, raw: train 7 samples")


def test_sample_writes_a_data_set(tmp_path, capsys):
    main(["sample", str(tmp_path / "raw"), "--num-images", "2", "--seed", "1"])
    assert len(list((tmp_path / "raw").rglob("*.mat"))) == 2
    assert "2 synthetic images" in capsys.readouterr().out


def test_verify_ends_with_status_one_and_a_reason_of_one_line(packed, capsys):
    (packed / "val-000000.tar").unlink()
    assert main(["verify", str(packed)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "val-000000.tar is missing" in errors[0]


def test_skip_incomplete_builds_the_others_and_says_so(tiny, tmp_path, capsys):
    (tiny.path / "maps/train/t1.png").unlink()
    main(["build", str(tiny.path), str(tmp_path / "out"), "--skip-incomplete"])
    assert "dropped: 1 samples" in capsys.readouterr().out
