"""The script for a machine with a GPU, on a CPU at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from shards.build.writer import build
from shards.synthetic import write_sample

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path, monkeypatch):
    write_sample(tmp_path / "raw", num_images=6, progress=False)
    build(tmp_path / "raw", tmp_path / "shards", progress=False)
    settings = {name: value for name, value in gpu.SETTINGS.items() if "compiled" not in name}
    monkeypatch.setattr(gpu, "SETTINGS", settings)
    flags = "--device cpu --backbones tiny --size 48 64 --batches 2 --steps 1 --scale 64"
    paths = ["--data", tmp_path / "shards", "--output", tmp_path / "gpu.json"]
    flags = [*flags.split(), "--loader-workers", "0", *map(str, paths)]
    monkeypatch.setattr(sys, "argv", ["gpu", *flags])
    gpu.main()
    return json.loads((tmp_path / "gpu.json").read_text())


@pytest.mark.slow
def test_every_part_is_timed(results):
    for row in results["encoders"]["tiny"].values():
        assert row["images_per_second"] > 0
        assert row["of_floor"] > 0
        assert row["by_flops"] > 0
        assert row["by_bytes"] > 0
    assert len(results["encoders"]["tiny"]) == 2
    assert results["rates"].keys() == {"float32", "bfloat16", "copy"}
    assert results["decoder"]["images_per_second"].keys() == {"density", "eml"}
    assert results["loader"]["share"] > 0
    assert results["loss_and_metrics"]["loss_ms"] < results["loss_and_metrics"]["loss_loop_ms"]
    assert "| tiny | float32 | " in gpu.as_table(results)


def test_neither_ray_nor_mlflow_is_imported():
    banned = "ray mlflow scipy pipelines matplotlib"
    code = f"import sys, benchmarks.gpu; print(set(sys.modules) & set('{banned}'.split()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
