# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The documentation keeps its promises: links lead to files, commands exist, Python blocks run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CLI = "import sys; from nemo_sortformer.cli import main; sys.exit(main())"
paged = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The lines of a page's shell blocks as words, without comments, continued lines joined."""
    text = "\n".join(blocks(page, "(?:bash|sh|shell)")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def all_commands() -> list[tuple[Path, list[str]]]:
    """Each command of each page."""
    return [(page, words) for page in PAGES for words in commands(page)]


def cli_commands() -> dict[str, set[str]]:
    """The sub-commands of ``nemo-sortformer`` named in the pages, each with the options named beside it."""
    named: dict[str, set[str]] = {}
    for _, words in all_commands():
        if words[0].endswith("nemo-sortformer"):
            options = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
            named.setdefault(words[1], set()).update(options)
    return named


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@paged
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"


@paged
def test_files_named_in_code_marks_exist(page):
    folders = "nemo_sortformer|examples|configs|docs|scripts|benchmarks|tests|hydra_plugins"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text()):
        assert (ROOT / name).exists(), f"`{name}` does not exist"


def test_make_targets_and_scripts_named_in_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page, words in all_commands():
        if words[0] == "make":
            for target in [word for word in words[1:] if "=" not in word]:
                assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page.name}: make {target}"
        if words[0].endswith("python") and len(words) > 1 and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), f"{page.name}: {words[1]}"
            for name in [word.partition("=")[2] for word in words if word.startswith("--config-name=")]:
                assert list((ROOT / "configs").rglob(f"{name}.yaml")), f"{page.name}: no config {name}"


def test_the_readme_shows_the_two_commands_and_a_python_block():
    assert {"demo", "test"} <= {words[1] for words in commands(README) if words[0] == "make"}
    assert blocks(README, "python")


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(cli_commands()))
def test_commands_of_the_pages_exist_with_their_options(command):
    done = subprocess.run([sys.executable, "-c", CLI, command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    for option in cli_commands()[command]:
        assert re.search(rf"{re.escape(option)}(?![\w-])", shown), f"nemo-sortformer {command} has no {option}"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_python_blocks_of_the_readme_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seconds = np.arange(4 * 16_000) / 16_000
    noise = np.random.default_rng(0).standard_normal(seconds.size)
    soundfile.write("meeting.wav", (0.1 * noise * (np.sin(2 * np.pi * seconds) > 0)).astype(np.float32), 16_000)
    exec(compile(blocks(README, "python")[number], f"README.md, block {number + 1}", "exec"), {"__name__": "readme"})
