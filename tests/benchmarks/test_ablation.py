# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The ablation: equal parameters and data, restarts that go on, numbers by hand, and pages that cannot be partial."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from benchmarks.ablation import run
from benchmarks.ablation.grid import finish_grid, path_of, read_runs
from benchmarks.ablation.plots import draw_all
from benchmarks.ablation.publish import publish, write_report
from benchmarks.ablation.settings import AblationConfig, Run
from benchmarks.ablation.summary import difference, equal_level, spread, summarize, unseen_at
from benchmarks.ablation.tables import all_tables, cell
from benchmarks.ablation.verdicts import QUESTIONS, tally, verdicts_table
from benchmarks.page_blocks import NOT_YET, blocks, fill_blocks
from nemo_sortformer.config import ConfigError, from_cfg

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = ROOT / "docs" / "claims.md"


def load(name, *overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        return from_cfg(AblationConfig, compose(name, overrides=list(overrides)))


def tiny(tmp_path, **settings):
    """A grid of two systems, one of which has two pools, and results that cost nothing."""
    encoder = {"_target_": "nemo_sortformer.modules.SortformerEncoder", "num_layers": 2, "hidden_size": 8}
    encoder |= {"inner_size": 8, "num_attention_heads": 2, "dropout": 0.0}
    defaults = {
        "out": str(tmp_path / "out"),
        "systems": {
            "one": {"title": "One", "encoder": encoder, "same_weights": {"no sort": {"sort": False}}},
            "two": {"title": "Two", "encoder": encoder},
        },
        "losses": {"sort": {"sort_weight": 1.0, "pil_weight": 0.0}, "pil": {"sort_weight": 0.0, "pil_weight": 1.0}},
        "grid": {
            "main": {"systems": ["one", "two"], "losses": ["sort", "pil"]},
            "pools": {"systems": ["two"], "losses": ["pil"], "pools": [8, 64, None]},
        },
        "seeds": [0, 1],
        "compare": {
            "losses": {"part": "main", "by": "loss", "pairs": [["sort", "pil"]]},
            "encoders": {"part": "main", "by": "system", "pairs": [["one", "two"]]},
        },
        "train": {"steps": 4, "batch_size": 2, "frames": 24, "curve_every": 2, "curve_recordings": 4},
        "test_recordings": {1: 6, 2: 4},
    }
    return from_cfg(AblationConfig, defaults | settings)


def rates(value):
    return {"as_is": value, "mapped": value / 2, "self_sorted": value, "count": 1 - value}


def fake(config, run, on_step=None):
    """A result whose errors follow from the run."""
    value = 0.4 if run.loss == "pil" else 0.2 + 0.02 * run.seed
    point = {"seen": rates(value), "unseen": rates(value + 0.1)}
    modes = config.systems[run.system].same_weights
    return {
        "parameters": 1000, "seconds": 1.0, "seen": rates(value),
        "curve": [{"step": 2, "train_loss": 1.0, "seen": rates(0.8), "unseen": rates(0.8)}, {"step": 4, **point}],
        "unseen": {"1": rates(value + 0.1), "2": rates(value + 0.2)}, "by_classes": {"2": rates(value)},
        "same_weights": {mode: {"1": rates(0.5), "2": rates(0.6)} for mode in modes},
    }  # fmt: skip


# What is compared


def test_the_full_grid_has_every_system_with_every_loss_and_three_seeds():
    config = load("ablation")
    runs = config.runs()
    main = {(r.system, r.loss) for r in runs if r.pool == 64}
    encoders = ("transformer", "no_feedback", "auxiliary", "unsorted", "sorted", "supervised")
    assert {(s, loss) for s in encoders for loss in ("pil", "sort", "hybrid")} <= main
    for baseline in ("deep_sets", "set_transformer", "deep_clustering", "eend", "eend_eda"):
        assert (baseline, "pil") in main
    assert {r.pool for r in runs} == {8, 16, 64, None}
    assert all(replace(r, seed=seed) in runs for r in runs for seed in range(3))
    assert len(set(runs)) == len(runs)
    assert [r.seed for r in runs] == sorted(r.seed for r in runs)  # an early look shows all systems


def test_all_systems_have_the_same_parameters_to_within_three_percent():
    config = load("ablation")
    first = {r.system: r for r in reversed(config.runs())}
    sizes = {
        system: sum(p.numel() for p in run.build_labeler(config, r).parameters() if p.requires_grad)
        for system, r in first.items()
    }
    assert set(sizes) == set(config.systems)
    assert max(sizes.values()) / min(sizes.values()) < 1.03, sizes


def test_a_new_encoder_is_one_more_entry():
    config = load(
        "ablation_quick",
        "+systems.mine={title: Mine, encoder: {_target_: nemo_sortformer.baselines.DeepSetsEncoder, "
        "num_layers: 1, hidden_size: 8, inner_size: 8}}",
        "grid.main.systems=[mine]",
    )
    assert Run("mine", "sort", 64, 0) in config.runs()


@pytest.mark.parametrize(
    "change, match",
    [
        ({"grid": {"main": {"systems": ["onne"], "losses": ["sort"]}}}, "`one`"),
        ({"grid": {"main": {"systems": ["one"], "losses": ["psl"]}}}, "`psl`"),
        ({"grid": {"main": {"systems": [], "losses": ["sort"]}}}, "at least one run"),
        ({"test_recordings": {2: 4}}, "training length"),
        ({"train": {"steps": 0}}, "steps"),
        ({"compare": {"x": {"part": "mian", "by": "loss", "pairs": []}}}, "`main`"),
        ({"systems": {"one": {"titel": "One"}}}, "titel"),
    ],
)
def test_settings_that_make_no_grid_are_named(tmp_path, change, match):
    with pytest.raises(ConfigError, match=match):
        tiny(tmp_path, **change)


# One run


def test_error_rates_by_hand():
    labels = torch.zeros(1, 8, 2)
    labels[0, :4, 1] = labels[0, 4:, 0] = 1.0  # the second column comes first
    swapped = torch.stack([labels[..., 0], labels[..., 1]], dim=2)  # the second to come stands first
    found = run.error_rates(swapped, labels)
    assert found == {"as_is": 1.0, "mapped": 0.0, "self_sorted": 0.0, "count": 1.0}
    missing = labels.clone()
    missing[0, 4:] = 0.0
    found = run.error_rates(missing[..., [1, 0]], labels)
    assert found == {"as_is": 0.5, "mapped": 0.5, "self_sorted": 0.5, "count": 0.0}


def test_a_run_trains_tests_and_repeats_itself(tmp_path):
    config = tiny(tmp_path)
    steps = []
    one = run.run_one(config, Run("one", "sort", 64, 0), steps.append)
    two = run.run_one(config, Run("one", "sort", 64, 0))
    assert steps == [1, 2, 3, 4]
    assert [point["step"] for point in one["curve"]] == [2, 4]
    for key in ("curve", "seen", "unseen", "by_classes", "same_weights", "parameters"):
        assert one[key] == two[key]
    assert set(one["unseen"]) == {"1", "2"}
    assert set(one["same_weights"]) == {"no sort"}
    other = run.run_one(config, Run("one", "sort", 64, 1))
    assert other["curve"][0]["train_loss"] != one["curve"][0]["train_loss"]


@pytest.mark.parametrize("name", ["auxiliary", "eend_eda", "deep_clustering", "set_transformer", "deep_sets", "eend"])
def test_a_step_of_every_system_reaches_all_of_its_weights(name):
    config = load("ablation")
    torch.manual_seed(0)
    model = run.build_labeler(config, next(r for r in config.runs() if r.system == name))
    data = config.task.draw(4, 48, torch.Generator().manual_seed(0))
    lengths = torch.tensor([48, 48, 30, 20])
    loss, parts, _ = model.compute_losses((data.embeddings, lengths, data.labels, lengths))
    loss.backward()
    assert loss.isfinite()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not [n for n in without if "key_net.bias" not in n and "key.bias" not in n]
    assert {"auxiliary": "layer", "eend_eda": "head", "deep_clustering": "head"}.get(name, "pil") in parts


def test_the_learning_rate_warms_up_and_falls_to_one_percent():
    found = [run.learning_rate(step, 10, 100) for step in (0, 9, 10, 55, 100)]
    assert found == pytest.approx([0.1, 1.0, 1.0, 0.505, 0.01])


# The grid


def test_a_grid_that_was_stopped_goes_on_and_does_nothing_twice(tmp_path):
    config = tiny(tmp_path)
    done = []

    def stops_at_the_third(config, run, on_step):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run)
        return fake(config, run)

    with pytest.raises(KeyboardInterrupt):
        finish_grid(config, work=stops_at_the_third)
    assert list(read_runs(config)) == config.runs()[:3]

    def goes_on(config, run, on_step):
        done.append(run)
        return fake(config, run)

    results = finish_grid(config, work=goes_on)
    assert done == config.runs() == list(results)
    assert not list(Path(config.out).glob("*.part"))


def test_runs_of_other_settings_are_not_mixed_in(tmp_path):
    finish_grid(tiny(tmp_path), work=fake)
    other = tiny(tmp_path, task={"noise": 0.4})
    with pytest.raises(ConfigError, match="other settings"):
        read_runs(other)
    retitled = tiny(tmp_path)
    retitled.systems["one"].title = "Another title"
    assert len(read_runs(retitled)) == len(retitled.runs())


def test_a_broken_file_is_named(tmp_path):
    config = tiny(tmp_path)
    path = path_of(config, config.runs()[0])
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(ConfigError, match=re.escape(path.name)):
        read_runs(config)


def test_every_setting_that_changes_a_result_changes_the_digest(tmp_path):
    config = tiny(tmp_path)
    base, r = config.digest(config.runs()[0]), config.runs()[0]
    changed = [
        tiny(tmp_path, train={"steps": 5}).digest(r),
        tiny(tmp_path, task={"noise": 0.4}).digest(r),
        tiny(tmp_path, test_recordings={1: 7}).digest(r),
        config.digest(replace(r, seed=1)),
        config.digest(replace(r, pool=8)),
    ]
    assert len({base, *changed}) == 6


# Numbers


def test_means_and_deviations_by_hand():
    assert spread([0.1, 0.2, 0.3]) == [0.2, 0.1, 3]
    assert spread([0.25]) == [0.25, 0.0, 1]
    assert spread([]) == [0.0, 0.0, 0]
    assert cell([0.2, 0.1, 3]) == "20.0 ± 10.0"


def test_the_error_at_equal_training_error_is_read_off_the_curve():
    def curve(*pairs):
        return [{"seen": {"mapped": seen}, "unseen": {"mapped": unseen}} for seen, unseen in pairs]

    fast, slow = curve((0.8, 0.8), (0.4, 0.6), (0.1, 0.5)), curve((0.7, 0.7), (0.5, 0.55), (0.3, 0.4))
    level = equal_level([fast, slow])
    assert level == 0.3
    assert unseen_at(slow, level) == pytest.approx(0.4)
    assert unseen_at(fast, level) == pytest.approx(0.6 - 0.1 / 3)  # a third of the way from 0.4 to 0.1
    assert unseen_at(slow, 0.2) is None
    assert unseen_at(slow, 0.9) == pytest.approx(0.7)
    assert equal_level([]) is None
    assert unseen_at(slow, None) is None


def test_the_summary_and_its_tables_by_hand(tmp_path):
    config = tiny(tmp_path)
    summary = summarize(config, finish_grid(config, work=fake))
    assert summary["complete"]
    assert summary["finished"] == summary["runs"] == 12
    row = next(r for r in summary["parts"]["main"]["rows"] if (r["system"], r["loss"]) == ("one", "sort"))
    assert row["seen"]["as_is"] == [0.21, 0.0141, 2]
    assert row["gap"] == [0.05, 0.0, 2]  # of the mapped errors, which are half
    tables = all_tables(summary)
    assert {name for name in tables if not name.startswith("picture_")} == {
        "main", "main_lengths", "main_classes", "main_same_weights", "pools", "pools_lengths", "pools_classes",
        "pools_pools", "losses", "encoders", "verdicts",
    }  # fmt: skip
    line = "| One | sort | 64 | 1.0 k | 21.0 ± 1.4 | 10.5 ± 0.7 | 31.0 ± 1.4 | 15.5 ± 0.7 | 31.0 ± 1.4 |"
    assert line in tables["main"]
    assert "| unlimited | Two | pil | 20.0 ± 0.0 | 25.0 ± 0.0 | 5.0 ± 0.0 |" in tables["pools_pools"]
    assert "| One | sort | no sort | 50.0 ± 0.0 / 25.0 ± 0.0 |" in tables["main_same_weights"]


def test_differences_are_taken_seed_by_seed_and_are_nothing_within_their_own_spread(tmp_path):
    config = tiny(tmp_path)
    summary = summarize(config, finish_grid(config, work=fake))
    row = summary["differences"]["losses"][0]
    assert (row["a"], row["b"], row["same"], row["pool"]) == ("sort", "pil", "one", 64)
    assert row["unseen, as is"] == {"change": [-0.19, 0.0141, 2], "says": "better"}
    assert row["gap"] == {"change": [0.0, 0.0, 2], "says": "no difference"}
    assert "4x, as is" not in row  # not tested
    assert summary["differences"]["encoders"][0]["unseen, as is"]["says"] == "no difference"
    assert "| sort against pil | One | 64 |" in all_tables(summary)["losses"]
    assert "**-19.0 ± 1.4 better**" in all_tables(summary)["losses"]
    assert [difference(changes)["says"] for changes in ([0.1, 0.3], [0.1, 0.6], [0.1, -0.1], [0.1])] == [
        "worse", "no difference", "no difference", "one seed",
    ]  # fmt: skip


def test_verdicts_count_what_the_differences_say(tmp_path):
    config = tiny(tmp_path)
    summary = summarize(config, finish_grid(config, work=fake))
    row = next(row for row in verdicts_table(summary) if row[0] == "sorting replaces PIL")
    assert row[1:3] == ["sort against pil", "unseen, as is: better in 2 of 2; unseen, mapped: better in 2 of 2"]
    mixed = [{"gap": {"says": says}} for says in ("worse", "better", "worse")]
    assert tally(mixed, "gap") == "worse in 2 of 3, better in 1"


def test_every_question_is_compared_in_the_full_grid():
    config = load("ablation")
    for _, table, a, b, _, section in QUESTIONS:
        assert [a, b] in config.compare[table].pairs
        heading = section.replace("-", " ")
        words = [re.sub(r"[^\w ]", "", line.lower()).strip() for line in CLAIMS.read_text().splitlines()]
        assert heading in words


# Pages


def test_a_partial_grid_says_so_everywhere_and_is_not_published(tmp_path):
    config = tiny(tmp_path)
    results = dict(list(finish_grid(config, work=fake).items())[:5])
    summary = summarize(config, results)
    assert not summary["complete"]
    assert len(summary["missing"]) == 7
    tables = {name: table for name, table in all_tables(summary).items() if not name.startswith("picture_")}
    assert all("INCOMPLETE: 5 of 12" in table for table in tables.values())
    page = write_report(summary, config.out)
    assert page.read_text().startswith("# Ablation, INCOMPLETE: 5 of 12 runs")
    docs = tmp_path / "docs"
    docs.mkdir()
    docs.joinpath("claims.md").write_text("<!-- ablation: main -->\n<!-- end -->\n")
    with pytest.raises(ConfigError, match="7 are missing"):
        publish(summary, docs)
    assert [path.name for path in docs.iterdir()] == ["claims.md"]


def test_a_complete_grid_fills_the_page_and_draws_the_pictures(tmp_path):
    config = tiny(tmp_path)
    summary = summarize(config, finish_grid(config, work=fake))
    docs = tmp_path / "docs"
    docs.mkdir()
    page = docs / "claims.md"
    page.write_text(
        "Words.\n<!-- ablation: main -->\nold\n<!-- end -->\nMore words.\n<!-- cost: main -->\n<!-- end -->\n"
        "<!-- ablation: picture_ablation_pools_pools -->\n<!-- end -->\n"
    )
    publish(summary, docs)
    assert all_tables(summary)["main"] in page.read_text()
    assert "old" not in page.read_text()
    assert "Words.\n<!--" in page.read_text()
    assert fill_blocks(page.read_text(), "ablation", all_tables(summary)) == page.read_text()
    assert "<!-- cost: main -->\n<!-- end -->" in page.read_text()
    pictures = {path.name for path in (docs / "images").iterdir()}
    assert pictures == {"ablation_pools_pools.png"}  # what the page shows, and nothing else
    named = {name.removeprefix("picture_") for name in all_tables(summary) if name.startswith("picture_")}
    drawn = {path.stem for path in draw_all(summary, tmp_path / "all")}
    assert drawn == named
    assert {f"ablation_main_{what}" for what in ("curves", "lengths", "classes")} <= drawn
    assert json.loads((docs / "ablation.json").read_text()) == json.loads(json.dumps(summary))
    page.write_text("<!-- ablation: maim -->\n<!-- end -->")
    with pytest.raises(ConfigError, match="maim"):
        publish(summary, docs)


def test_the_page_of_claims_is_that_of_the_record():
    page, record = CLAIMS.read_text(), ROOT / "docs" / "ablation.json"
    assert "INCOMPLETE" not in page
    assert blocks(page, "ablation")
    if not record.is_file():
        assert set(blocks(page, "ablation").values()) == {NOT_YET}
        return
    summary = json.loads(record.read_text())
    assert summary["complete"]
    assert fill_blocks(page, "ablation", all_tables(summary)) == page
    words = re.sub(r"<!-- \w+: \w+ -->.*?<!-- end -->", "", page, flags=re.DOTALL)
    measured = {number for block in blocks(page, "ablation").values() for number in re.findall(r"\d+\.\d", block)}
    for kind in ("cost", "encoder_cost", "speech"):
        measured |= {number for block in blocks(page, kind).values() for number in re.findall(r"\d+\.\d+", block)}
    assert set(re.findall(r"(?<![\w.])\d+\.\d(?![\d.])", words)) <= measured  # no number that is in no table


@pytest.mark.slow
def test_the_command_runs_and_goes_on(tmp_path, monkeypatch):
    import subprocess
    import sys

    words = ["--config-name=ablation_quick", f"out={tmp_path / 'out'}", f"hydra.run.dir={tmp_path}", "train.steps=2"]
    words += ["test_recordings={1: 4, 2: 4, 4: 4}", "train.curve_every=2", "train.curve_recordings=4"]
    words += ["grid.main.systems=[sorted]", "grid.baselines.systems=[]", "grid.causal.systems=[]"]
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "ablation.py"), *words], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        assert "2 runs. Report" in done.stdout
    assert (tmp_path / "out" / "report" / "report.md").is_file()
    assert len(list((tmp_path / "out").glob("*.json"))) == 2
