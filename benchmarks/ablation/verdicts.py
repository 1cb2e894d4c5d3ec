# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the differences say about each claim, counted: no verdict is written by hand that a number could give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

OURS = ("sorted", "sort")
"""System and loss that stand for the paper."""
BOTH, FAR = ("unseen, as is", "unseen, mapped"), ("unseen, as is", "4x, as is")
REPLACES, FEEDBACK = "1-sorting-replaces-pil", "3-sorted-feedback-helps"
QUESTIONS = (
    # claim, table of differences, a, b, measures, section of the page
    ("sorting replaces PIL", "losses", "sort", "pil", BOTH, REPLACES),
    ("alone as well", "losses", "sort", "hybrid", BOTH, REPLACES),
    ("it overfits less", "pool_losses", "sort", "pil", ("gap", "unseen, mapped"), "2-it-overfits-less"),
    ("sorted feedback helps", "encoders", "sorted", "no_feedback", FAR, FEEDBACK),
    ("it is the sort that helps", "encoders", "sorted", "unsorted", FAR, FEEDBACK),
    ("supervising it helps", "encoders", "supervised", "sorted", FAR, FEEDBACK),
    ("it helps causal encoders", "causal_encoders", "causal_sorted", "causal_no_feedback", FAR,
     "5-long-context-and-streaming"),
)  # fmt: skip


def verdicts_table(summary: Mapping[str, Any]) -> list[list[str]]:
    """A header and a row for each claim whose comparison the grid has."""
    titles = summary["titles"]
    rows = [["claim", "compared", "what the error does", "shown by"]]
    for claim, table, a, b, measures, section in QUESTIONS:
        found = [row for row in summary["differences"].get(table, []) if (row["a"], row["b"]) == (a, b)]
        if found:
            text = "; ".join(f"{measure}: {tally(found, measure)}" for measure in measures if measure in found[0])
            rows.append([claim, f"{titles.get(a, a)} against {titles.get(b, b)}", text, f"[{section[0]}](#{section})"])
    if ranking := rank(summary):
        rows.append(["it beats other methods", "unseen, mapped; best first", ranking, "[4](#4-against-other-methods)"])
    return rows


def tally(rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    """In how many comparisons the error is better, worse, or neither.

    Example:
        >>> tally([{"gap": {"says": "better"}}, {"gap": {"says": "no difference"}}], "gap")
        'better in 1 of 2, no difference in 1'
    """
    counts = Counter(row[measure]["says"] for row in rows)
    (first, number), *others = counts.most_common()
    return ", ".join([f"{first} in {number} of {len(rows)}", *(f"{says} in {count}" for says, count in others)])


def rank(summary: Mapping[str, Any]) -> str:
    """The baselines, and the sorted feedback with the sorted loss, by their mapped error on unseen classes."""
    parts = summary["parts"]
    if "baselines" not in parts or "main" not in parts:
        return ""
    rows = [*parts["baselines"]["rows"], *(r for r in parts["main"]["rows"] if (r["system"], r["loss"]) == OURS)]
    errors = sorted((row["unseen"]["1"]["mapped"][0], summary["titles"][row["system"]]) for row in rows)
    return ", ".join(f"{title} {100 * error:.1f}" for error, title in errors)
