# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The results of the tasks: one JSON file for all, and the table of it in a page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_MARKS = ("<!-- results -->", "<!-- end of results -->")
_HEAD = ("task", "classes", "answer", "error, mapped", "error as is", "right count", "void F1")
_COLUMNS = ("error", "error_as_is", "count_right", "void_f1")
_WAYS = {"heads": "labeler: heads", "clustering": "labeler: clustering"}
_TOLD = {"k-means": "k-means, told count and void", "linkage": "linkage, told count and void"}


def write_result(folder: str | Path, name: str, result: Mapping[str, Any]) -> str:
    """Add the result of a task to the others in `tasks.json`, and put the table into `tasks.md` if that is there.

    Args:
        folder: of the two files.
        name: of the task.
        result: what examples/label_task.py found.

    Returns:
        The table of this task alone, in Markdown.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, page = folder / "tasks.json", folder / "tasks.md"
    results = json.loads(path.read_text()) if path.is_file() else {}
    results[name] = result
    path.write_text(
        json.dumps(dict(sorted(results.items())), indent=1) + "\n"
    )  # the order inside is that of the table
    if page.is_file():
        page.write_text(with_table(page.read_text(), result_table(results)))
    return result_table({name: result})


def with_table(text: str, table: str) -> str:
    """The text with the table between its marks; without marks, the text as it is."""
    begin, end = _MARKS
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", flags=re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


def result_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table, in percent: references, then the labeler as mean and spread over its seeds."""
    rows = [_HEAD, ("---",) * 3 + ("--:",) * 4]
    for name, result in sorted(results.items()):
        for part, references in result["references"].items():
            for method, scores in references.items():
                rows.append((name, part, _TOLD.get(method, method), *_cells([scores], told=method in _TOLD)))
            for way, text in _WAYS.items():
                if part in result[way]:
                    rows.append((name, part, f"**{text}**", *_cells(result[way][part])))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(scores: Sequence[Mapping[str, float]], *, told: bool = False) -> tuple[str, ...]:
    cells = []
    for column in _COLUMNS:
        values = 100 * np.array([one[column] for one in scores])
        text = f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")
        cells.append("told" if told and column in ("count_right", "void_f1") else text)
    return tuple(cells)
