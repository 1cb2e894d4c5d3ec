# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Finished runs on real speech as one table and one picture: DER on sessions/test, mean and deviation over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.ablation.settings import Run
from benchmarks.ablation.speech import SpeechAblationConfig
from benchmarks.ablation.tables import markdown
from benchmarks.page_blocks import fill_blocks
from nemo_sortformer.config import ConfigError

SUMMARY, PAGE, PICTURE = "ablation_speech.json", "claims.md", "ablation_speech.png"
_COLUMNS = ("test", "test_2", "test_3", "test_4", "dev", "as_is", "mapped")


def summarize_speech(config: SpeechAblationConfig, results: Mapping[Run, Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of the table as plain JSON: each value is [mean, deviation over seeds], as 0.1 is 10 %."""
    rows = []
    for system, loss in dict.fromkeys((run.system, run.loss) for run in config.runs()):
        found = [result for run, result in results.items() if (run.system, run.loss) == (system, loss)]
        if found:
            values = {name: _spread([_value(result, name) for result in found]) for name in _COLUMNS}
            row = {"system": system, "loss": loss, "seeds": len(found), "parameters": found[0]["parameters"]}
            rows.append(row | values)
    missing = [run.name for run in config.runs() if run not in results]
    return {
        "complete": not missing,
        "missing": missing,
        "titles": {name: system.title for name, system in config.systems.items()},
        "rows": rows,
        "steps": config.train.steps,
        "commits": sorted({result["commit"] for result in results.values()}),
        "machines": sorted({result["machine"] for result in results.values()}),
    }


def _value(result: Mapping[str, Any], name: str) -> float:
    return result[name]["der"] if name in result else result["unseen"]["1"][name]


def _spread(values: list[float]) -> list[float]:
    return [mean(values), stdev(values) if len(values) > 1 else 0.0]


def speech_table(summary: Mapping[str, Any]) -> str:
    """The table in Markdown, in %."""
    header = ["state encoder", "loss", "parameters", "DER test", "2 speakers", "3", "4", "DER dev", "frames as is"]
    lines = [[*header, "frames mapped", "seeds"]]
    for row in summary["rows"]:
        cells = [f"{100 * row[name][0]:.1f} ± {100 * row[name][1]:.1f}" for name in _COLUMNS]
        title = summary["titles"][row["system"]]
        lines.append([title, row["loss"], f"{row['parameters'] / 1000:.0f} k", *cells, str(row["seeds"])])
    return markdown(lines)


def draw_speech(summary: Mapping[str, Any], path: Path) -> Path:
    """Bars of the DER on test, one per system and loss, with their deviation over seeds."""
    from matplotlib.figure import Figure

    rows = sorted(summary["rows"], key=lambda row: row["test"][0], reverse=True)
    figure = Figure(figsize=(9, 0.42 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{summary['titles'][row['system']]} ({row['loss']})" for row in rows]
    colors = ["#c2571a" if "affinity" in row["system"] and "no_" not in row["system"] else "#4a6f8a" for row in rows]
    bars = axes.barh(
        names, [100 * row["test"][0] for row in rows], xerr=[100 * row["test"][1] for row in rows], color=colors
    )
    axes.bar_label(bars, fmt="%.1f", padding=4, fontsize=8)
    axes.set_xlabel("DER by the label heads on sessions/test, %; deviation over seeds")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def write_speech_report(summary: Mapping[str, Any], out: str | Path) -> Path:
    """Write table, picture and numbers into `<out>/report`, and give the page."""
    folder = Path(out) / "report"
    picture = draw_speech(summary, folder / PICTURE)
    whole = "complete" if summary["complete"] else f"INCOMPLETE: {len(summary['missing'])} runs are missing"
    page = folder / "report.md"
    page.write_text(
        f"# State encoders on real speech, {whole}\n\n{speech_table(summary)}\n\n![]({picture.name})\n",
        encoding="utf-8",
    )
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return page


def publish_speech(summary: Mapping[str, Any], docs: str | Path) -> None:
    """Write a complete grid into the documentation.

    Raises:
        ConfigError: a run is missing.
    """
    if not summary["complete"]:
        raise ConfigError(
            f"`publish` needs all runs, but {len(summary['missing'])} are missing, the first {summary['missing'][0]}. "
            "Run the same command until it is done."
        )
    docs = Path(docs)
    text = docs.joinpath(PAGE).read_text(encoding="utf-8")
    text = fill_blocks(text, "speech", {"table": speech_table(summary)})
    draw_speech(summary, docs / "images" / PICTURE)
    (docs / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    docs.joinpath(PAGE).write_text(text, encoding="utf-8")
