"""The rooms, their folders and who may import whom, held to the table in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("emlnet", "shards", "pipelines", "tune")
BESIDE = ("benchmarks", "deploy", "docs", "tests")
FOREIGN = {"emlnet": ("ray", "webdataset", "mlflow"), "shards": ("ray",)}
ALLOWED = {("emlnet/registry/mlflow_registry.py", "mlflow")}
SHARED_NAMES = {"__init__", "__main__", "conftest"}
ROW = re.compile(r"^\| `([a-z_/]+)/` \|[^|]*\|(.*)\|$", re.M)


def read_arrows(text: str) -> dict[str, set[str]]:
    """Folders that each folder may import, by the table of CONTRIBUTING.md."""
    return {
        folder: {name.rstrip("/") for name in re.findall(r"`([a-z_/]+)`", names)}
        for folder, names in ROW.findall(text)
    }


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, relative ones and `import_module` included.

    `from package import name` gives `package.name`, since that may be a module.
    """
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            parts = (*above, *((node.module,) if node.module else ()))
            yield from ((node.lineno, ".".join((*parts, alias.name))) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = node.args[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                yield node.lineno, str(name.value)


def folder_of(module: str, root: Path) -> str:
    """The folder that a module of the project lies in, as a path from the root."""
    parts = module.split(".")
    while parts and not root.joinpath(*parts).is_dir():
        parts.pop()
    return "/".join(parts)


def wrong_imports(root: Path, arrows: dict[str, set[str]]) -> list[str]:
    """`file:line: what` of every import that a room or a folder may not have."""
    wrong = []
    for position, room in enumerate(ROOMS):
        barred = (*ROOMS[position + 1 :], *BESIDE, *FOREIGN.get(room, ()))
        for path in sorted((root / room).rglob("*.py")):
            file = path.relative_to(root).as_posix()
            own = path.parent.relative_to(root).as_posix()
            for line, module in imports(path, root):
                top = module.partition(".")[0]
                if top in barred and (file, top) not in ALLOWED:
                    wrong.append(f"{file}:{line}: {room} may not import {module}")
                elif top == room and (own != room or path.stem not in SHARED_NAMES):
                    folder = folder_of(module, root)
                    if folder not in {own, *arrows.get(own, ())}:
                        wrong.append(f"{file}:{line}: {own} may not import {folder}")
    return wrong


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Folders from which a way along the arrows leads back to them."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(arrows[start])
        while waiting:
            folder = waiting.pop()
            if folder not in seen:
                seen.add(folder)
                waiting += arrows.get(folder, ())
        return seen

    return [folder for folder in arrows if folder in reached(folder)]


def source_files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


ARROWS = read_arrows((ROOT / "CONTRIBUTING.md").read_text())


def test_a_room_imports_rooms_to_its_left_and_a_folder_what_the_table_says():
    assert wrong_imports(ROOT, ARROWS) == []


def test_the_table_names_every_folder_and_has_no_circle():
    folders = {path.parent.relative_to(ROOT).as_posix() for path in source_files()}
    assert set(ARROWS) == folders
    assert set().union(*ARROWS.values()) <= folders
    assert circles(ARROWS) == []


def repeated(names: Iterable[str]) -> list[str]:
    return [name for name, number in Counter(names).items() if number > 1]


def test_two_files_never_share_a_name():
    files = [
        path for folder in (*ROOMS, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 100
    assert repeated(path.stem for path in files if path.stem not in SHARED_NAMES) == []


def test_two_public_classes_never_share_a_name():
    nodes = [node for path in source_files() for node in ast.parse(path.read_text()).body]
    classes = [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    assert len(classes) > 100
    assert repeated(name for name in classes if not name.startswith("_")) == []


def test_a_folder_holds_three_to_twelve_things():
    for folder in ARROWS:
        files = list((ROOT / folder).glob("*.py"))
        folders = [name for name in ARROWS if name.rpartition("/")[0] == folder]
        assert len(files) <= 12, folder
        assert len(files) + len(folders) >= 3, folder


def test_a_folder_says_what_belongs_in_it():
    for folder in ARROWS:
        text = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
        assert text, folder


def test_mlflow_is_imported_at_first_use():
    (file, _) = next(iter(ALLOWED))
    assert early_imports(ROOT / file, "mlflow") == []


def early_imports(path: Path, package: str) -> list[int]:
    """Lines where a package is imported as soon as the file is: outside of any function."""
    late = {
        child
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for child in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return [
        line
        for line, module in imports(path, path.parent)
        if module.partition(".")[0] == package and line not in late
    ]


def test_workers_import_slow_packages_at_first_use():
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
        ("emlnet/a.py", "import os\nimport shards.reader\n", 2),
        ("emlnet/a.py", "from pipelines import worker\n", 1),
        ("emlnet/a.py", "import torch, ray\n", 1),
        ("emlnet/a.py", "def f():\n    from ray.train import report\n", 2),
        ("emlnet/a.py", "if True:\n    import webdataset as wds\n", 2),
        ("emlnet/deep/mlflow_registry.py", "import mlflow\n", 1),
        ("emlnet/registry/mlflow_registry.py", "import mlflow\nimport tune\n", 2),
        ("emlnet/a.py", "from .. import shards\n", 1),
        ("emlnet/a.py", "from ..shards import reader\n", 1),
        ("emlnet/a.py", "import importlib\nimportlib.import_module('ray.train')\n", 2),
        ("shards/a.py", "import ray\n", 1),
        ("pipelines/a.py", "import tune.space\n", 1),
        ("pipelines/a.py", "from benchmarks import speed\n", 1),
        ("tune/a.py", "import tests.emlnet\n", 1),
        ("emlnet/low/a.py", "if TYPE_CHECKING:\n    from emlnet.high.b import B\n", 2),
        ("emlnet/low/a.py", "import emlnet.high.b\n", 1),
        ("emlnet/low/a.py", "from emlnet import high\n", 1),
    ],
)
def test_a_wrong_import_is_found_with_file_and_line(tmp_path, file, text, line):
    put(tmp_path, "emlnet/high/b.py", "class B: pass\n")
    put(tmp_path, file, text)
    (found,) = wrong_imports(tmp_path, {"emlnet/high": {"emlnet/low"}})
    assert found.startswith(f"{file}:{line}: ")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("emlnet/registry/mlflow_registry.py", "import mlflow\n"),
        ("emlnet/low/c.py", "from .a import resize\nfrom . import a\nimport raylib\n"),
        ("emlnet/high/c.py", "from emlnet.low import a\nfrom emlnet.low.a import resize\n"),
        ("shards/a.py", "import webdataset\nfrom emlnet.low import a\n"),
        ("pipelines/a.py", "import ray, mlflow\nimport emlnet\n"),
        ("tune/a.py", "from pipelines import encoders\nimport ray.tune\n"),
    ],
)
def test_a_right_import_is_left_alone(tmp_path, file, text):
    put(tmp_path, "emlnet/low/a.py", "def resize(): pass\n")
    put(tmp_path, file, text)
    assert wrong_imports(tmp_path, {"emlnet/high": {"emlnet/low"}}) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_an_import_outside_a_function_is_found(tmp_path):
    text = "if TYPE_CHECKING:\n    import mlflow\ndef f():\n    import mlflow\nimport mlflow\n"
    put(tmp_path, "a.py", text)
    assert early_imports(tmp_path / "a.py", "mlflow") == [5]
