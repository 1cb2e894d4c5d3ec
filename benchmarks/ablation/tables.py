# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The summary as Markdown tables. All errors are percentages of the active frames, mean ± deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.ablation.verdicts import verdicts_table

CAPTIONS = {
    "curves": "error over training steps, as is; solid: unseen classes, dashed: seen classes",
    "lengths": "error by length, unseen classes; solid: as is, dotted: mapped",
    "classes": "error by number of classes, unseen classes; solid: as is, dotted: mapped",
    "pools": "error by size of the training pool, mapped; solid: unseen classes, dashed: seen classes",
}
Row = Mapping[str, Any]


def all_tables(summary: Mapping[str, Any]) -> dict[str, str]:
    """The tables by name, each a heading line and a table; parts that the grid does not have are left out.

    Where the grid is not complete, each begins with a line that says so.
    """
    titles, parts = summary["titles"], summary["parts"]
    tables: dict[str, str] = {}
    for name, part in parts.items():
        rows = part["rows"]
        if not rows:
            continue
        tables[name] = errors_table(rows, titles)
        tables[f"{name}_lengths"] = keyed_table(rows, titles, "unseen", "length {}x")
        tables[f"{name}_classes"] = keyed_table(rows, titles, "by_classes", "{} classes")
        if len(part["pools"]) > 1:
            tables[f"{name}_pools"] = pools_table(part, titles)
        if any(row["same_weights"] for row in rows):
            tables[f"{name}_same_weights"] = same_weights_table(rows, titles)
    for name, rows in summary["differences"].items():
        if rows:
            tables[name] = differences_table(rows, titles)
    if len(answers := verdicts_table(summary)) > 1:
        tables["verdicts"] = markdown(answers)
    warning = f"**INCOMPLETE: {summary['finished']} of {summary['runs']} runs. Not a result.**\n\n"
    whole = {name: ("" if summary["complete"] else warning) + table for name, table in tables.items()}
    return whole | {
        f"picture_{name}": f"![{text}](images/{name}.png)" for name, text in picture_names(summary).items()
    }


def picture_names(summary: Mapping[str, Any]) -> dict[str, str]:
    """The pictures that the grid has, without their ending, and what each shows."""
    names = {}
    for part, content in summary["parts"].items():
        if content["rows"]:
            names |= {f"ablation_{part}_{what}": caption for what, caption in CAPTIONS.items() if what != "pools"}
            if len(content["pools"]) > 1:
                names[f"ablation_{part}_pools"] = CAPTIONS["pools"]
    return names


def errors_table(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """A row for each system and loss: errors on seen and unseen classes, unmapped and mapped."""
    header = (
        "system", "loss", "pool", "parameters", "seen: as is", "mapped", "unseen: as is", "mapped", "self-sorted",
        "gap, mapped", "class count right", "seeds",
    )  # fmt: skip
    lines = []
    for row in rows:
        seen, unseen = row["seen"], row["unseen"]["1"]
        cells = [seen["as_is"], seen["mapped"], unseen["as_is"], unseen["mapped"], unseen["self_sorted"], row["gap"]]
        lines.append(
            [titles[row["system"]], row["loss"], _pool(row["pool"]), f"{row['parameters'] / 1000:.1f} k"]
            + [cell(value) for value in [*cells, unseen["count"]]]
            + [str(row["gap"][2])]
        )
    return markdown([header, *lines])


def keyed_table(rows: Sequence[Row], titles: Mapping[str, str], key: str, label: str) -> str:
    """Errors on unseen classes, "as is / mapped", in a column for each length or number of classes."""
    names = list(dict.fromkeys(name for row in rows for name in row[key]))
    lines = [
        [titles[row["system"]], row["loss"], _pool(row["pool"])]
        + [
            f"{cell(row[key][n]['as_is'])} / {cell(row[key][n]['mapped'])}" if n in row[key] else "-"
            for n in names
        ]
        for row in rows
    ]  # fmt: skip
    return markdown([["system", "loss", "pool", *(label.format(name) for name in names)], *lines])


def pools_table(part: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """For each pool: error on seen and unseen classes, mapped, and on unseen ones at equal error on seen ones."""
    lines = []
    for row in part["rows"]:
        level = part["levels"][str(row["pool"] or "all")]
        lines.append(
            [_pool(row["pool"]), titles[row["system"]], row["loss"]]
            + [cell(value) for value in (row["seen"]["mapped"], row["unseen"]["1"]["mapped"], row["gap"])]
            + [f"{cell(row['at_equal_training_error'])} (at {100 * level:.1f})"]
        )
    header = ["pool", "system", "loss", "seen", "unseen", "gap", "unseen at equal error on seen"]
    return markdown([header, *lines])


def same_weights_table(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """One set of weights in several modes of the encoder: "as is / mapped" on unseen classes by length."""
    lines = []
    for row in rows:
        if not row["same_weights"]:
            continue
        for mode, unseen in {"as trained": row["unseen"], **row["same_weights"]}.items():
            errors = [f"{cell(v['as_is'])} / {cell(v['mapped'])}" for v in unseen.values()]
            lines.append([titles[row["system"]], row["loss"], mode, *errors])
    lengths = next(row["unseen"] for row in rows if row["same_weights"])
    return markdown([["system", "loss", "tested", *(f"length {times}x" for times in lengths)], *lines])


def differences_table(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Changes of errors in percentage points, seed by seed; what is better or worse by more than chance in bold."""
    names = [name for name, value in rows[0].items() if isinstance(value, dict)]
    lines = []
    for row in rows:
        a, b, same = (titles.get(row[key], row[key]) for key in ("a", "b", "same"))
        cells = []
        for name in names:
            average, deviation, _ = row[name]["change"]
            text = f"{100 * average:+.1f} ± {100 * deviation:.1f}"
            cells.append(f"**{text} {row[name]['says']}**" if row[name]["says"] in ("better", "worse") else text)
        lines.append([f"{a} against {b}", same, _pool(row["pool"]), *cells])
    return markdown([["change of the error", "with", "pool", *names], *lines])


def cell(value: Sequence[float]) -> str:
    """A mean with its deviation as percentages; the mean alone where there is one seed.

    Example:
        >>> cell([0.2214, 0.0049, 3]), cell([0.5, 0.0, 1]), cell([0.0, 0.0, 0])
        ('22.1 ± 0.5', '50.0', '-')
    """
    average, deviation, seeds = value
    if not seeds:
        return "-"
    return f"{100 * average:.1f}" + (f" ± {100 * deviation:.1f}" if seeds > 1 else "")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of a header and lines."""
    header, *lines = rows
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *lines)) + "\n"


def _pool(pool: int | None) -> str:
    return "unlimited" if pool is None else str(pool)
