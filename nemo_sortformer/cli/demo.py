# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer demo`: a conversation of synthetic voices, who spoke when, and how right that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, out, quiet_nemo

if TYPE_CHECKING:
    from nemo_sortformer.data.segment import Segment
    from nemo_sortformer.inference.results import Diarization


def demo(
    output_dir: Annotated[Path, typer.Option(help="Where audio, RTTM and picture go.")] = Path("demo"),
    model: Annotated[Path | None, typer.Option(help="A .nemo file instead of the shipped model.")] = None,
    num_voices: Annotated[int, typer.Option(help="Voices in the conversation.")] = 3,
    seconds: Annotated[float, typer.Option(help="Length of the conversation.")] = 45.0,
    seed: Annotated[int, typer.Option(help="Another seed, another conversation.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ... Default: a GPU where there is one.")] = None,
    verbose: Verbose = False,
) -> None:
    """Make a conversation, diarize it, print who spoke when with the error rate, and draw the timeline."""
    with command(verbose=verbose):
        import numpy as np
        import soundfile

        from nemo_sortformer.data.rttm import write_rttm
        from nemo_sortformer.data.synthesis import synthesize_conversation

        console = out()
        output_dir.mkdir(parents=True, exist_ok=True)
        console.print(f"Synthesizing {seconds:g} s of conversation with {num_voices} voices ...")
        audio, truth, texts = synthesize_conversation(seed=seed, num_speakers=num_voices, seconds=seconds)
        audio = np.asarray(audio, dtype=np.float32)
        wav = output_dir / "demo.wav"
        soundfile.write(wav, audio, 16000)
        write_rttm(output_dir / "demo_reference.rttm", truth, "demo")

        console.print("Loading the model ...")
        quiet_nemo(verbose=verbose)
        from nemo_sortformer.inference.checkpoint import load_model
        from nemo_sortformer.inference.diarize import diarize_recordings

        result = diarize_recordings(load_model(model, device=device), wav)[0]
        result.to_rttm(output_dir / "demo.rttm")
        result.plot(output_dir / "demo.png", reference=truth)
        _print_turns(result, truth, texts)
        _print_score(result, truth)
        names = ("demo.wav", "demo.rttm", "demo_reference.rttm", "demo.png")
        console.print("Written: " + ", ".join(str(output_dir / name) for name in names), markup=False)


def _print_turns(result: Diarization, truth: Sequence[Segment], texts: Sequence[str]) -> None:
    """Who spoke when; beside each turn of the answer the voice that was speaking, and what it said."""
    from rich.table import Table

    from nemo_sortformer.inference.compare import match_speakers
    from nemo_sortformer.inference.report import clock

    styles = ("cyan", "yellow", "green", "magenta", "blue", "red")
    mapping = match_speakers(truth, result.segments)
    table = Table(title="Who spoke when", title_justify="left")
    for name, justify in (("from", "right"), ("to", "right"), ("answer", "left"), ("truth", "left")):
        table.add_column(name, justify=justify)
    table.add_column("said (truth)", overflow="fold")
    for segment in result.segments:
        shared = [max(0.0, min(t.end, segment.end) - max(t.start, segment.start)) for t in truth]
        best = max(range(len(truth)), key=lambda k: shared[k], default=None)
        heard = truth[best].speaker if best is not None and shared[best] > 0 else "nobody"
        right = mapping.get(segment.speaker) == heard
        style = styles[int(segment.speaker.rpartition("_")[2]) % len(styles)]
        text = texts[best] if best is not None and heard != "nobody" and best < len(texts) else ""
        table.add_row(
            clock(segment.start, tenths=True),
            clock(segment.end, tenths=True),
            f"[{style}]{segment.speaker}",
            f"{heard} {'' if right else '[red]x'}",
            text,
        )
    out().print(table)


def _print_score(result: Diarization, truth: Sequence[Segment]) -> None:
    from nemo_sortformer.inference.score import Condition, Session, score_sessions

    report = score_sessions([Session("demo", truth, result.segments)], [Condition(0.25), Condition(0.0)])
    for condition in report.conditions:
        total = report.total(condition)
        parts = total.to_dict()
        out().print(
            f"[bold]DER {100 * total.der:.1f} %[/bold] ({condition}): missed {100 * (parts['missed'] or 0):.1f} %, "
            f"false alarm {100 * (parts['false_alarm'] or 0):.1f} %, confusion {100 * (parts['confusion'] or 0):.1f} %"
        )
    score = report.recordings[0]
    out().print(f"Speakers: {score.answered_speakers} found, {score.true_speakers} in truth")
