# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of the encoders' cost has a row for each, and writes ratios into a page."""

import pytest

from benchmarks import encoder_cost


@pytest.mark.slow
def test_the_command_writes_its_table_into_the_page(tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- encoder_cost: table -->\n<!-- end -->\nafter\n")
    words = ["--slots", "2", "4", "--frames", "30", "--batch-frames", "60", "--hidden-size", "16", "--layers", "2"]
    words += ["--rounds", "1", "--page"]
    monkeypatch.setattr("sys.argv", ["encoder_cost", *words, str(page)])
    encoder_cost.main()
    assert "| 30 | feedback from affinities | 4 |" in capsys.readouterr().out
    text = page.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "[ms]" not in text
    assert text.count("| 30 |") == 3 + 2 * 2
