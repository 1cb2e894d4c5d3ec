# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The cost benchmark: the ways that it compares give the same order, and it runs from start to file."""

import json

import pytest
import torch

from benchmarks import sorting_cost
from benchmarks.sorting_cost import brute_force_order, counting_order, fastest
from nemo_sortformer.functional.permutation import best_assignment


@pytest.mark.parametrize("slots", [1, 2, 5, 64])
def test_counting_sort_is_a_stable_sort(slots):
    arrival = torch.randint(0, 11, (50, slots), generator=torch.Generator().manual_seed(slots))
    assert torch.equal(counting_order(arrival, 10), arrival.argsort(dim=1, stable=True))


@pytest.mark.parametrize("slots", [1, 2, 5, 7])
def test_brute_force_finds_the_best_assignment(slots):
    cost = torch.rand(20, slots, slots, generator=torch.Generator().manual_seed(slots))
    assert torch.equal(brute_force_order(cost), best_assignment(cost))


def test_two_that_are_near_are_a_tie():
    assert fastest({"brute": 9.0, "assignment": 1.2, "comparison": 1.0}) == "tie: comparison, assignment"
    assert fastest({"assignment": 1.3, "comparison": 1.0}) == "comparison"


@pytest.mark.slow
def test_the_command_prints_its_tables_and_keeps_them(tmp_path, capsys, monkeypatch):
    out = tmp_path / "cost.json"
    page = tmp_path / "page.md"
    page.write_text("<!-- cost: loss -->\n<!-- end -->\n")
    words = [
        "--page",
        str(page),
        "--slots",
        "2",
        "9",
        "--batch",
        "2",
        "--seconds",
        "8",
        "--rounds",
        "1",
        "--out",
        str(out),
    ]
    monkeypatch.setattr("sys.argv", ["sorting_cost", *words])
    sorting_cost.main()
    record = json.loads(out.read_text())
    assert list(record["tables"]) == ["order", "target", "loss, forward and backward"]
    for rows in record["tables"].values():
        assert [row["slots"] for row in rows] == [2, 9]
        assert rows[0]["brute ms"] > 0
        assert rows[1]["brute ms"] is None
        assert all(row[f"{way} ms"] > 0 for row in rows for way in ("assignment", "comparison", "counting", "ours"))
    assert capsys.readouterr().out.count("| slots |") == 3
    assert "| 9 | - |" in page.read_text()
