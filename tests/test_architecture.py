"""Who may import whom: emlnet <- shards <- pipelines <- tune."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("emlnet", "shards", "pipelines", "tune")
BESIDE = ("benchmarks", "deploy", "docs", "tests")
FOREIGN = {"emlnet": ("ray", "webdataset", "mlflow"), "shards": ("ray",)}
ALLOWED = {("emlnet/registry/mlflow_registry.py", "mlflow")}


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module a file imports, relative and by name at run time too."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            parts = (*above, *((node.module,) if node.module else ()))
            if parts:
                yield node.lineno, ".".join(parts)
            else:  # `from .. import room`
                yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = node.args[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                yield node.lineno, str(name.value)


def wrong_imports(root: Path) -> list[str]:
    """`file:line: what` of every import that no room may have, or not this one."""
    wrong = []
    for position, room in enumerate(ROOMS):
        barred = (*ROOMS[position + 1 :], *BESIDE, *FOREIGN.get(room, ()))
        for path in sorted((root / room).rglob("*.py")):
            file = path.relative_to(root).as_posix()
            for line, module in imports(path, root):
                top = module.partition(".")[0]
                if top in barred and (file, top) not in ALLOWED:
                    wrong.append(f"{file}:{line}: {room} may not import {module}")
    return wrong


def early_imports(root: Path) -> list[str]:
    """`file:line` where mlflow is imported as soon as its file is: outside of any function."""
    path = root / "emlnet" / "registry.py"
    late = {
        child
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for child in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return [
        f"{path}:{line}"
        for line, module in imports(path, root)
        if module.partition(".")[0] == "mlflow" and line not in late
    ]


def test_a_room_imports_only_rooms_to_its_left():
    assert all((ROOT / room).is_dir() for room in ROOMS)
    assert wrong_imports(ROOT) == []


def test_mlflow_is_imported_at_first_use_alone():
    assert early_imports(ROOT) == []


def test_what_ray_starts_leaves_slow_packages_for_their_first_use():
    script = "import sys\n"
    script += "import pipelines.stages.encoder_stage, pipelines.stages.decoder_stage\n"
    script += "import pipelines.tracking.mlflow_runs\n"
    script += "print(*{'mlflow', 'pretrainedmodels', 'timm', 'torchvision'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert answer.stdout.split() == []


def put(root, file, text):
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("emlnet/a.py", "import os\nimport shards.read.reader\n", 2),
        ("emlnet/a.py", "from pipelines import worker\n", 1),
        ("emlnet/a.py", "import torch, ray\n", 1),
        ("emlnet/a.py", "def f():\n    from ray.train import report\n", 2),
        ("emlnet/a.py", "if True:\n    import webdataset as wds\n", 2),
        ("emlnet/a.py", "from mlflow import MlflowClient\n", 1),
        ("emlnet/deep/registry.py", "import mlflow\n", 1),
        ("emlnet/registry/mlflow_registry.py", "import mlflow\nimport tune\n", 2),
        ("emlnet/a.py", "from .. import shards\n", 1),
        ("emlnet/a.py", "from ..shards import reader\n", 1),
        ("emlnet/a.py", "import importlib\nimportlib.import_module('ray.train')\n", 2),
        ("shards/a.py", "import ray\n", 1),
        ("shards/a.py", "from pipelines.config.options import Config\n", 1),
        ("pipelines/a.py", "import tune.space\n", 1),
        ("pipelines/a.py", "from benchmarks import speed\n", 1),
        ("tune/a.py", "import tests.emlnet\n", 1),
    ],
)
def test_a_wrong_import_is_found_with_file_and_line(tmp_path, file, text, line):
    put(tmp_path, file, text)
    (found,) = wrong_imports(tmp_path)
    assert found.startswith(f"{file}:{line}: ")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("emlnet/registry/mlflow_registry.py", "import mlflow\n"),
        ("emlnet/a.py", "from .maps import resize\nfrom . import fit\nimport raylib\n"),
        ("shards/a.py", "import webdataset\nfrom emlnet.data.samples import Sample\n"),
        ("pipelines/a.py", "import ray, mlflow\nimport emlnet\nfrom shards import reader\n"),
        ("tune/a.py", "from pipelines import encoders\nimport ray.tune\n"),
    ],
)
def test_a_right_import_is_left_alone(tmp_path, file, text):
    put(tmp_path, file, text)
    assert wrong_imports(tmp_path) == []


def test_an_import_of_mlflow_outside_a_function_is_found(tmp_path):
    text = "if TYPE_CHECKING:\n    import mlflow\ndef f():\n    import mlflow\nimport mlflow\n"
    put(tmp_path, "emlnet/registry/mlflow_registry.py", text)
    (found,) = early_imports(tmp_path)
    assert found.endswith("registry.py:5")
