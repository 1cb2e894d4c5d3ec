# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The summary as files: a report beside the runs at any time, and the documentation once all runs are there."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.ablation.plots import draw_all
from benchmarks.ablation.tables import all_tables
from benchmarks.page_blocks import fill_blocks
from nemo_sortformer.config import ConfigError

SUMMARY = "ablation.json"
PAGE = "claims.md"


def write_report(summary: Mapping[str, Any], out: str | Path) -> Path:
    """Write tables, plots and numbers into `<out>/report`, and give the page."""
    folder = Path(out) / "report"
    shutil.rmtree(folder, ignore_errors=True)
    pictures = draw_all(summary, folder)
    whole = "all" if summary["complete"] else f"INCOMPLETE: {summary['finished']} of"
    lines = [f"# Ablation, {whole} {summary['runs']} runs", ""]
    for name, table in all_tables(summary).items():
        if not name.startswith("picture_"):
            lines += [f"## {name}", "", table]
    lines += [f"![{path.stem}]({path.name})" for path in pictures]
    page = folder / "report.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(summary, folder / SUMMARY)
    return page


def publish(summary: Mapping[str, Any], docs: str | Path) -> None:
    """Write a complete grid into the documentation: the JSON, the pictures, the tables of the page.

    Raises:
        ConfigError: a run is missing, or the page asks for a table that there is not.
    """
    if not summary["complete"]:
        raise ConfigError(
            f"`publish` needs all {summary['runs']} runs, but {len(summary['missing'])} are missing, the first "
            f"{summary['missing'][0]}. Run the same command until it is done."
        )
    docs = Path(docs)
    text = fill_blocks(docs.joinpath(PAGE).read_text(encoding="utf-8"), "ablation", all_tables(summary))
    shown = set(re.findall(r"images/(ablation_\w+\.png)", text))
    (docs / "images").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for picture in draw_all(summary, Path(folder)):
            if picture.name in shown:
                shutil.copyfile(picture, docs / "images" / picture.name)
    _write_json(summary, docs / SUMMARY)
    docs.joinpath(PAGE).write_text(text, encoding="utf-8")


def _write_json(summary: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, separators=(",", ":")) + "\n", encoding="utf-8")
