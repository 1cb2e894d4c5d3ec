# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The script of the tasks as a user runs it, and the page with its results against the file that they stand in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_sortformer.config import from_cfg
from nemo_sortformer.data.tasks.build import TASKS, TaskConfig
from nemo_sortformer.data.tasks.results import result_table, with_table, write_result

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "label_task.py"
PAGE, RESULTS = ROOT / "docs" / "tasks.md", ROOT / "docs" / "tasks.json"
SCORES = {"error": 0.25, "error_as_is": 0.5, "count_right": 0.75, "void_f1": 1.0}


def run(folder, *overrides):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *overrides]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_a_task_beats_its_references_on_unseen_classes(tmp_path):
    pytest.importorskip("sklearn")
    done = run(
        tmp_path,
        "--config-name=task_anomalies",
        "task.counts={train: 800, seen: 20, unseen: 40}",
        "trainer.max_steps=700",
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads((tmp_path / "tasks" / "tasks.json").read_text())["anomalies"]
    references = result["references"]["unseen"]
    heads, clustering = (result[way]["unseen"][0] for way in ("heads", "clustering"))
    best = min(heads["error"], clustering["error"])
    assert best < references["one class"]["error"] - 0.3
    assert best < references["chance"]["error"] - 0.1
    assert heads["void_f1"] > references["one class"]["void_f1"] + 0.5
    assert (tmp_path / "tasks" / "images" / "task_anomalies.png").stat().st_size > 10_000
    assert "labeler: heads" in done.stdout
    folder = tmp_path / "tasks" / "anomalies"
    assert (folder / "task_anomalies.nemo").is_file()
    assert len((folder / "unseen.jsonl").read_text().splitlines()) == 40


@pytest.mark.slow
def test_two_kinds_of_labels_train_together(tmp_path):
    pytest.importorskip("espeakng_loader", reason="the extra `tasks` is not installed")
    small = ["task.counts={train: 8, seen: 3, unseen: 3}", "trainer.max_steps=3", "+task.options.num_languages=3"]
    done = run(tmp_path, "--config-name=task_voice_languages", *small)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads((tmp_path / "tasks" / "tasks.json").read_text())["voice_languages"]
    assert set(result["heads"]) == {f"{s} {kind}" for s in ("seen", "unseen") for kind in ("speaker", "language")}
    assert result["clustering"] == {}
    assert (tmp_path / "tasks" / "images" / "task_voice_languages.png").is_file()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_config_that_is_valid(name):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        cfg = compose(f"task_{name}")
    config = from_cfg(TaskConfig, cfg.task, path="task")
    assert config.name == name
    assert cfg.model.input_dim == config.dim


def test_the_table_has_mean_and_spread():
    result = {
        "references": {"unseen": {"one class": SCORES, "k-means": SCORES}},
        "heads": {"unseen": [SCORES, SCORES | {"error": 0.35}]},
        "clustering": {},
    }
    rows = result_table({"faces": result}).splitlines()
    assert rows[2] == "| faces | unseen | one class | 25.0 | 50.0 | 75.0 | 100.0 |"
    assert rows[3] == "| faces | unseen | k-means, told count and void | 25.0 | 50.0 | told | told |"
    assert rows[4].startswith("| faces | unseen | **labeler: heads** | 30.0 ± 7.1 | 50.0 ± 0.0 | 75.0 ± 0.0 |")
    assert len(rows) == 5


def test_results_join_the_others_and_the_page(tmp_path):
    result = {"references": {"unseen": {"one class": SCORES, "chance": SCORES}}, "heads": {}, "clustering": {}}
    (tmp_path / "tasks.md").write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    write_result(tmp_path, "faces", result)
    shown = write_result(tmp_path, "genres", result)
    assert set(json.loads((tmp_path / "tasks.json").read_text())) == {"faces", "genres"}
    page = (tmp_path / "tasks.md").read_text()
    assert page.startswith("before\n<!-- results -->\n| task")
    assert page.endswith("<!-- end of results -->\nafter\n")
    assert "old" not in page
    assert "| faces | unseen | chance |" in page
    assert "faces" not in shown
    assert with_table(page, result_table(json.loads((tmp_path / "tasks.json").read_text()))) == page


def test_the_page_shows_the_results_of_the_file_and_their_pictures():
    results, text = json.loads(RESULTS.read_text()), PAGE.read_text()
    assert set(results) <= set(TASKS)
    assert with_table(text, result_table(results)) == text, "run examples/label_task.py with out_dir=docs"
    for name in TASKS:
        assert f"--config-name=task_{name}" in text
        assert (f"](images/task_{name}.png)" in text) == (name in results)


def test_the_script_is_short():
    assert len(SCRIPT.read_text().splitlines()) < 80
