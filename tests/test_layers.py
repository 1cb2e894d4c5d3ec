# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The shape of the house: imports point one way, files stay small, each says what it is and under which licence."""

import ast
import functools
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nemo_sortformer"
MAX_LINES = 400
LICENCE = "# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0."

GROUND = {"functional", "config", "foreign_packages"}
MIDDLE = {"modules", "losses", "metrics", "data", "baselines"}
UPPER = GROUND | MIDDLE | {"nemo_bridge", "models"}
MAY_IMPORT = {
    "functional": set(),
    "config": set(),
    "foreign_packages": set(),
    "modules": {"functional"},
    "losses": {"functional"},
    "metrics": {"functional"},
    "data": GROUND,
    "baselines": {"functional", "modules"},
    "nemo_bridge": GROUND,
    "models": GROUND | MIDDLE | {"nemo_bridge"},
    "inference": UPPER,
    "distributed": UPPER,
    "serve": UPPER | {"inference"},
    "cli": UPPER | {"inference", "distributed", "serve"},
    "__main__": {"cli"},
}
LAZILY = {"models": {"inference"}}
"""Allowed inside a function or for type checking only: ``SortformerDiarizer.diarize`` hands over to the engine."""


def python_files(*folders: str) -> list[Path]:
    """All Python files below the given top-level folders, in order."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if ".venv" not in path.parts)


@functools.cache
def distributions() -> dict[str, list[str]]:
    """Which distributions hold a top-level module; asked once, as it reads the metadata of all that is installed."""
    return {name: list(homes) for name, homes in packages_distributions().items()}


PACKAGE_FILES = python_files("nemo_sortformer", "hydra_plugins")
ALL_FILES = python_files("nemo_sortformer", "hydra_plugins", "examples", "benchmarks", "scripts", "tests")
named = pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
packaged = pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imports_of(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Yield (absolute module name, line, whether it runs at import time) for each import of a file.

    ``from nemo_sortformer import data`` counts as ``nemo_sortformer.data``.
    """

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"line {child.lineno}: imports name the whole path, never `from .`"
                if child.module == "nemo_sortformer":
                    yield from ((f"nemo_sortformer.{alias.name}", child.lineno, at_import) for alias in child.names)
                else:
                    yield child.module, child.lineno, at_import
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    yield from visit(ast.Module(body=[part], type_ignores=[]), False)
                for part in child.orelse:
                    yield from visit(ast.Module(body=[part], type_ignores=[]), at_import)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from visit(child, at_import and not inside)

    return visit(tree, True)


def wrong_imports(source: str, room: str) -> list[str]:
    """The imports of ``source``, a file of the folder ``room``, that point the wrong way."""
    wrong = []
    for module, line, at_import in imports_of(ast.parse(source)):
        parts = module.split(".")
        if parts[0] != "nemo_sortformer" or len(parts) < 2:
            continue
        allowed = MAY_IMPORT[room] | {room} | (set() if at_import else LAZILY.get(room, set()))
        if parts[1] in MAY_IMPORT and parts[1] not in allowed:
            wrong.append(f"line {line}: {room} imports {module}")
        elif parts[1] not in MAY_IMPORT:
            wrong.append(f"line {line}: {room} imports {module}, a public name or an unknown folder")
    return wrong


def room_of(path: Path) -> str:
    """The folder of the package, or the module at its top, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = room_of(path)
    if room != "__init__":
        assert room in MAY_IMPORT, f"`{room}` has no place in the house: add it to MAY_IMPORT and docs/architecture.md"
        assert not wrong_imports(path.read_text(), room)


@pytest.mark.parametrize(
    "source, room, count",
    [
        ("from nemo_sortformer.models.diarizer import SortformerDiarizer", "data", 1),
        ("import nemo_sortformer.inference.diarize", "models", 1),
        ("def f():\n    from nemo_sortformer.inference.diarize import diarize_files", "models", 0),
        ("def f():\n    from nemo_sortformer.inference.diarize import diarize_files", "losses", 1),
        ("if TYPE_CHECKING:\n    from nemo_sortformer.inference.results import Diarization", "models", 0),
        ("from nemo_sortformer import read_rttm", "inference", 1),
        ("from nemo_sortformer.functional import frames", "losses", 0),
        ("from nemo_sortformer.config import merge", "functional", 1),
        ("try:\n    from nemo_sortformer.data import audio\nexcept ImportError:\n    pass", "modules", 1),
    ],
)
def test_a_wrong_import_is_found(source, room, count):
    assert len(wrong_imports(source, room)) == count


@pytest.mark.parametrize(
    "room, forbidden",
    [
        ("functional", {"nemo", "lightning", "omegaconf", "hydra", "lhotse", "pyannote", "torchmetrics"}),
        ("config", {"nemo", "lightning", "torch", "lhotse", "scipy"}),
        ("models", {"pytorch_lightning", "typer", "rich"}),
        ("data", {"pytorch_lightning", "typer", "rich"}),
    ],
)
def test_a_folder_stays_free_of(room, forbidden):
    for path in sorted((PACKAGE / room).rglob("*.py")):
        found = {module.split(".")[0] for module, _, _ in imports_of(ast.parse(path.read_text()))}
        assert not found & forbidden, path


def test_scipy_enters_functional_through_permutation_only():
    for path in sorted((PACKAGE / "functional").rglob("*.py")):
        uses = any(module.split(".")[0] == "scipy" for module, _, _ in imports_of(ast.parse(path.read_text())))
        assert not uses or path.name == "permutation.py", path


@packaged
def test_every_third_party_import_is_a_requirement(path):
    listed = {
        line.partition("==")[0].partition("[")[0].lower().replace("_", "-").replace(".", "-")
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if "==" in line
    }
    homes = distributions()
    for module, line, _ in imports_of(ast.parse(path.read_text())):
        top = module.split(".")[0]
        if top in sys.stdlib_module_names or top in ("nemo_sortformer", "hydra_plugins"):
            continue
        found = {home.lower().replace("_", "-").replace(".", "-") for home in homes.get(top, [top])}
        assert found & listed, f"line {line}: `{module}` comes from {sorted(found)}, not in requirements.txt"


@named
def test_no_file_outgrows_its_subject(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split it by subject"


@named
def test_every_file_names_its_licence_and_says_what_it_is(path):
    source = path.read_text()
    assert source.startswith(LICENCE)
    assert ast.get_docstring(ast.parse(source)), "a module docstring comes first"


@named
def test_no_loose_ends(path):
    marks = ["TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "breakpoint" + "()"]
    assert not [mark for mark in marks if mark in path.read_text()]
