# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The package as others meet it: a light import, names that resolve, a wheel that works outside the checkout."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import nemo_sortformer

ROOT = Path(__file__).resolve().parents[1]
PINS = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
HEAVY = ("torch", "nemo", "lightning", "pytorch_lightning", "numpy", "scipy", "lhotse", "matplotlib", "typer")


def run_python(code: str, *, cwd: Path, path: Path | None = None) -> str:
    """Run ``code`` in a new interpreter inside ``cwd``, the checkout or ``path`` in front of what is installed."""
    environment = {**os.environ, "PYTHONPATH": str(path or ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy(tmp_path):
    code = f"import sys, nemo_sortformer; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(code, cwd=tmp_path) == "[]"


def test_hydra_can_look_for_plugins_without_importing_anything_heavy(tmp_path):
    code = (
        "import sys, pkgutil, importlib\n"
        "try:\n    import hydra_plugins\nexcept ImportError:\n    print([]); sys.exit()\n"
        "found = [m.name for m in pkgutil.walk_packages(hydra_plugins.__path__, 'hydra_plugins.')]\n"
        "for name in found:\n    if 'sortformer' in name: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'nemo', 'lightning') if name in sys.modules])"
    )
    assert run_python(code, cwd=tmp_path) == "[]"


@pytest.mark.parametrize("name", nemo_sortformer.__all__)
def test_every_public_name_resolves_to_something_documented(name):
    value = getattr(nemo_sortformer, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(nemo_sortformer)


def test_the_list_of_public_names_is_sorted_and_complete():
    names = nemo_sortformer.__all__
    assert names == sorted(names)
    assert set(names) - {"__version__"} == {name for group in nemo_sortformer._HOMES.values() for name in group}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="`sort_by_departure`"):
        nemo_sortformer.sort_by_departure  # noqa: B018


def test_the_command_is_installed():
    commands = {command.name: command.value for command in entry_points(group="console_scripts")}
    assert commands.get("nemo-sortformer") == "nemo_sortformer.cli:main"


@pytest.mark.parametrize("line", PINS)
def test_a_tested_version_lies_within_the_range_of_an_installation(line):
    pinned = Requirement(line)
    ranges = [Requirement(text) for text in requires("nemo_sortformer")]
    found = [requirement for requirement in ranges if requirement.name.lower() == pinned.name.lower()]
    assert found, "reinstall the project: setup.py has not read this requirement"
    version = str(pinned.specifier).removeprefix("==")
    assert all(requirement.specifier.contains(version) for requirement in found)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build a wheel from an sdist, as an index would: what the sdist lacks, the wheel lacks."""
    folder = tmp_path_factory.mktemp("wheel")
    backend = (
        "import setuptools.build_meta as backend, sys\nprint(getattr(backend, 'build_' + sys.argv[1])(sys.argv[2]))"
    )
    copy = folder / "source"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-c", backend, "sdist", str(folder)], cwd=copy, check=True, capture_output=True)
    sdist = next(folder.glob("*.tar.gz"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    done = subprocess.run([*command, str(sdist)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_all_that_an_installation_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    checkpoints = {str(path.relative_to(ROOT)) for path in (ROOT / "nemo_sortformer/checkpoints").glob("*.nemo")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "nemo_sortformer").rglob("*.py")}
    assert configs
    assert {f"nemo_sortformer/{name}" for name in configs} <= names
    assert checkpoints
    assert checkpoints | modules | {"nemo_sortformer/py.typed"} <= names
    assert any(name.endswith("/LICENSE") for name in names)
    strangers = {name.split("/")[0] for name in names} - {"nemo_sortformer", "hydra_plugins"}
    assert all(name.endswith(".dist-info") for name in strangers)


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import nemo_sortformer\n"
        "from pathlib import Path\n"
        "model = nemo_sortformer.load_shipped()\n"
        "folder = Path(nemo_sortformer.__file__).parent\n"
        "print(folder, len(list((folder / 'configs').rglob('*.yaml'))) > 0, type(model).__name__)"
    )
    last = run_python(code, cwd=tmp_path, path=site).splitlines()[-1]
    assert last == f"{site / 'nemo_sortformer'} True SortformerDiarizer"
