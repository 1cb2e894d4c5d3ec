# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a stream has said so far, for the terminal: who speaks now, a rolling timeline, times; or lines for a pipe."""

from __future__ import annotations

import json
import time
from collections import deque
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from nemo_sortformer.data.segment import Segment
    from nemo_sortformer.inference.stream_answers import StreamUpdate

_WINDOW_SECONDS = 60.0
_LABEL_WIDTH = 12
_LEAST_WIDTH = 20
_KEPT_SECONDS = 2 * _WINDOW_SECONDS
_FULL, _PART = "█", "▌"


class LineOutput:
    """Lines on standard output: `start end speaker` of each finished segment, or each update as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, update: StreamUpdate) -> None:
        """Write what an update brings.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        if self.as_json:
            typer.echo(json.dumps(update.to_dict()))
        else:
            for start, end, speaker in update.finished:
                typer.echo(f"{start:.3f} {end:.3f} {speaker}")


class LiveView:
    """A view for `rich.live.Live`, drawn anew whenever that asks for it.

    Args:
        title: what is heard.
        latency_seconds: the longest that a sample waits for its answer.
        duration: length of the recording in seconds, where it is known.
    """

    def __init__(self, title: str, *, latency_seconds: float, duration: float | None = None) -> None:
        self.title, self.latency_seconds, self.duration = title, latency_seconds, duration
        self.heard_seconds = 0.0
        """Audio that has come in."""
        self.busy_seconds = 0.0
        """Time of computing."""
        self.behind_seconds = 0.0
        """How much later than it should the last piece was taken in."""
        self._answered = 0.0
        self._speaking: tuple[str, ...] = ()
        self._finished: deque[Segment] = deque()
        self._changed: tuple[Segment, ...] = ()
        self._speakers: set[str] = set()
        self._began = time.monotonic()

    def show(self, update: StreamUpdate) -> None:
        """Take in an update."""
        self._answered, self._speaking, self._changed = update.seconds, update.speaking, update.changed
        self._finished.extend(update.finished)
        self._speakers.update(segment.speaker for segment in (*update.finished, *update.changed))
        while self._finished and self._finished[0].end < self._answered - _KEPT_SECONDS:
            self._finished.popleft()

    def render(self, width: int) -> Group:
        """The view, for a terminal of so many columns."""
        from rich.console import Group
        from rich.text import Text

        columns = max(width - _LABEL_WIDTH - 2, _LEAST_WIDTH)
        now = Text("  now  ", style="bold")
        for speaker in self._speaking:
            now.append(f" ● {speaker} ", style=f"bold {_style(speaker)}").append(" ")
        if not self._speaking:
            now.append("nobody", style="dim")
        lines: list[RenderableType] = [Text(f"  {self.title}", style="bold", overflow="ellipsis", no_wrap=True), now]
        for speaker in sorted(self._speakers, key=_number):
            lines.append(self._row(speaker, columns))
        lines += [self._axis(columns), self._times()]
        return Group(*lines)

    def _window(self) -> tuple[float, float]:
        end = max(self.heard_seconds, self._answered, _WINDOW_SECONDS)
        return end - _WINDOW_SECONDS, end

    def _row(self, speaker: str, columns: int) -> Text:
        from rich.text import Text

        start, end = self._window()
        share = [0.0] * columns
        per_column = (end - start) / columns
        for segment in (*self._finished, *self._changed):
            if segment.speaker != speaker or segment.end <= start:
                continue
            first, last = (segment.start - start) / per_column, (segment.end - start) / per_column
            for column in range(max(int(first), 0), min(int(last) + 1, columns)):
                share[column] += max(min(last, column + 1) - max(first, column), 0.0)
        marks = "".join(_FULL if part > 0.5 else _PART if part > 0.05 else "·" for part in share)
        answered = max(min(int((self._answered - start) / per_column), columns), 0)
        row = Text(f"  {speaker:<{_LABEL_WIDTH - 2}}", style="bold" if speaker in self._speaking else "")
        row.append(marks[:answered], style=_style(speaker)).append(" " * (columns - answered))
        return row

    def _axis(self, columns: int) -> Text:
        from rich.text import Text

        from nemo_sortformer.inference.report import clock

        start, end = self._window()
        left, right = clock(round(start)), clock(round(end))
        return Text(" " * _LABEL_WIDTH + left + right.rjust(columns - len(left)), style="dim")

    def _times(self) -> Text:
        from rich.text import Text

        from nemo_sortformer.inference.report import clock

        length = "" if self.duration is None else f" of {clock(self.duration)}"
        load = self.busy_seconds / self.heard_seconds if self.heard_seconds else 0.0
        text = Text("  ")
        parts = (
            f"heard {clock(self.heard_seconds, tenths=True)}{length}",
            f"answered {clock(self._answered, tenths=True)}",
            f"latency {self.latency_seconds:g} s",
            f"elapsed {clock(time.monotonic() - self._began)}",
            f"load {100 * load:.0f} %",
        )
        text.append("   ".join(parts), style="dim")
        if self.behind_seconds > 1:
            text.append(f"   {self.behind_seconds:.1f} s behind", style="bold yellow")
        return text


def _number(speaker: str) -> int:
    tail = speaker.rpartition("_")[2]
    return int(tail) if tail.isdigit() else 0


def _style(speaker: str) -> str:
    from nemo_sortformer.inference.report import speaker_color

    return speaker_color(_number(speaker))
