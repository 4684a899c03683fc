from __future__ import annotations

import numpy as np

from shards.__main__ import main
from shards.files import stored_pictures
from shards.files.manifest import Manifest
from shards.inspect.stats import table, warnings
from tests.shards.conftest import encode_png, pack


def row(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return line.removeprefix(name).split()


def test_the_table_counts_what_the_shards_hold(raw, tmp_path):
    raw.add("train/a", [[[1, 1], [40, 30], [40, 30]], [[3, 4]]])
    raw.add("train/b", [[[5, 5]]], size=(60, 80))
    raw.add("val/c")
    text = table(pack(raw.path, tmp_path / "out"), tmp_path / "out")
    assert row(text, "images ") == ["2", "1"]
    assert row(text, "fixations ") == ["5", "3"]
    assert row(text, "per image: mean") == ["2.5", "3.0"]
    assert row(text, "per image: minimum") == ["1", "3"]
    assert row(text, "per image: maximum") == ["4", "3"]
    assert row(text, "fixated pixels per image") == ["2.0", "3.0"]
    assert row(text, "observers per image") == ["1.5", "2.0"]
    assert row(text, "image sizes") == ["2", "1"]
    assert "density maps from files, sigma 19 px" in text


def test_the_statistics_are_those_of_all_fixations(tiny, tmp_path):
    manifest = pack(tiny.path, tmp_path / "out", shard_size=2)
    places = []
    for index in range(7):
        points = np.array([[1 + index, 1], [40, 30 - index], [1 + index, 1]], float)
        places.append((points - 0.5) / (40, 30))
    found = manifest.splits["train"].fixations
    np.testing.assert_allclose(found.mean, np.concatenate(places).mean(0), atol=1e-4)
    np.testing.assert_allclose(found.deviation, np.concatenate(places).std(0), atol=1e-4)
    assert (found.num, found.num_pixels, found.least, found.most) == (21, 14, 3, 3)


def test_maps_of_other_images_are_told_at_build_verify_and_stats(raw, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for index in range(4):
        points = rng.integers((20, 20), (300, 220), (6, 2)).astype(np.int32)
        raw.add(f"train/{index}", [points + 1], size=(240, 320))
        others = rng.integers((20, 20), (300, 220), (6, 2)).astype(np.int32)
        drawn = stored_pictures.draw_density(points if index else others, (240, 320), 12)
        raw.put(f"maps/train/{index}.png", encode_png(drawn))
    out = str(tmp_path / "out")
    for command in (["build", str(raw.path), out, "--num-workers", "1"], ["verify", out]):
        assert main(command) == 0
        error = capsys.readouterr().err
        assert "warning: 1 of 4 density maps disagree with maps made from their fixations" in error
        assert "for train/0)" in error
    main(["stats", out])
    assert "1 of 4 density maps disagree" in capsys.readouterr().err


def test_a_manifest_of_schema_1_has_a_table_too(packed):
    manifest = Manifest.load(packed)
    split = manifest.splits["train"]
    old = type(split)(shards=split.shards, samples=split.samples)
    text = table(type(manifest)(**{**vars(manifest), "splits": {"train": old}}), packed)
    assert row(text, "mean position (x, y)") == ["-"]


def test_maps_that_are_made_are_compared_with_nothing(tiny, tmp_path):
    manifest = pack(tiny.path, tmp_path / "out", maps="fixations", sigma=3)
    assert list(warnings(manifest)) == []
    assert row(table(manifest, "out"), "CC of map and fixations: mean") == ["-", "-"]


def test_gaze_outside_its_pictures_is_told(raw, tmp_path, capsys):
    raw.add("train/a", [[[1, 1], [40, 30], [400, 30], [500, 30]]])
    out = str(tmp_path / "out")
    assert main(["build", str(raw.path), out, "--num-workers", "1"]) == 0
    assert "warning: 2 of 4 fixations lie outside their images" in capsys.readouterr().err
    raw.add("train/b", [[[400, 1], [400, 30]]])
    assert main(["build", str(raw.path), str(tmp_path / "b"), "--num-workers", "1"]) == 1
    said = capsys.readouterr().err
    assert "1 of 2 images have no fixations in the picture (--units, --origin?)" in said
