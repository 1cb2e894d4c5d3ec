# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Error rates on real speech, beside simple systems: `python -m benchmarks.accuracy --speech ../shared/data`.

The model is run by the command line, `nemo-sortformer diarize`, as a user would, and its RTTM files are scored. The
folder of speech has `sessions/test`, `sessions/dev` (each with a `manifest.jsonl`) and `conversations`, whose lines
with the split `test` are the AMI excerpts. The development sessions only choose how the reference systems cluster.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.accuracy_report import (
    LEVEL,
    RESAMPLES,
    SEED,
    der_samples,
    draw_chart,
    find_limits,
    interval,
    limit_lines,
    speakers_table,
    summarize,
)
from benchmarks.baselines import STEP_SECONDS, Features, choose_setting, cluster_with_truth, mfcc, one_speaker
from benchmarks.timing import commit, machine
from nemo_sortformer.cli.console import quiet_nemo
from nemo_sortformer.data.audio import read_audio
from nemo_sortformer.data.manifest import ManifestEntry, read_manifest
from nemo_sortformer.inference.checkpoint import load_model, shipped_checkpoint
from nemo_sortformer.inference.score import ScoreReport, Session, score_sessions
from nemo_sortformer.inference.score_inputs import pair_sessions

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

TEST, DEV, AMI = "sessions/test", "sessions/dev", "AMI test"
MODEL = "the model"
VARIANTS = {"heads": "its label heads alone", "clustering": "its clustering"}
EMBEDDINGS, MFCC = "its embeddings clustered, true speech and count", "MFCC clustered, true speech and count"
ONE_SPEAKER, ONE_OWN = "one speaker, true speech", "one speaker, its own speech detection"


@dataclass(frozen=True)
class SpeechSet:
    """Recordings that are diarized by one command and scored together."""

    name: str
    manifest: Path
    entries: tuple[ManifestEntry, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, write `accuracy.json` and `images/accuracy.png`."""
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--speech", type=Path, required=True, help="folder with sessions/ and conversations/")
    parser.add_argument("--model", type=Path, help="a .nemo file instead of the shipped one")
    parser.add_argument("--out", type=Path, default=Path("outputs/accuracy"), help="where JSON and picture go")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    checkpoint = options.model or shipped_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        sets = find_sets(options.speech, Path(folder))
        quiet_nemo(verbose=False)
        model = load_model(checkpoint)
        reports, chosen = score_systems(sets, model, options.model, Path(folder))
    record = {
        "benchmark": "accuracy",
        "command": f"python -m benchmarks.accuracy {shlex.join(given)}",
        "commit": commit(),
        "machine": machine(),
        "versions": {name: version(name) for name in ("torch", "nemo_toolkit", "pyannote.metrics", "scipy")},
        "checkpoint": {
            "file": checkpoint.name,
            "bytes": checkpoint.stat().st_size,
            "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "assignment": model.config.inference.assignment,
        },
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL, "over": "recordings, errors pooled"},
        "jer": "collar 0 s",
        "chosen_on_dev": chosen,
        **results(reports),
    }
    print_record(record, reports)
    write_record(record, options.out)


def find_sets(speech: Path, folder: Path) -> list[SpeechSet]:
    """The sets below `speech`; the manifest of the AMI excerpts is written into `folder`.

    Raises:
        SystemExit: a manifest is missing.
    """
    conversations = speech / "conversations" / "manifest.jsonl"
    manifests = {TEST: speech / "sessions/test/manifest.jsonl", DEV: speech / "sessions/dev/manifest.jsonl"}
    for path in (*manifests.values(), conversations):
        if not path.is_file():
            raise SystemExit(f"`--speech` must name a folder of real speech, but `{path}` is missing.")
    manifests[AMI] = folder / "ami_test.jsonl"
    with manifests[AMI].open("w", encoding="utf-8") as file:
        for entry in read_manifest(conversations):
            if entry.extra.get("split") == "test":
                paths = {k: str(getattr(entry, k)) for k in ("audio_filepath", "rttm_filepath", "uem_filepath")}
                file.write(json.dumps({**paths, "uniq_id": entry.uniq_id}) + "\n")
    return [SpeechSet(name, path, tuple(read_manifest(path))) for name, path in manifests.items()]


def score_systems(
    sets: Sequence[SpeechSet], model: SortformerDiarizer, model_file: Path | None, folder: Path
) -> tuple[dict[str, dict[str, ScoreReport]], dict[str, str]]:
    """Answer every set with every system.

    Args:
        sets: the development sessions among them.
        model: the loaded model, for its embeddings.
        model_file: what the command line gets; None is the shipped one.
        folder: for what the command line writes.

    Returns:
        Reports by set and system; and the settings chosen on the development sessions, by system.
    """
    own = model.config.inference.assignment
    other = {"heads": "clustering", "clustering": "heads"}[own]
    assignments = {MODEL: None}
    if model.affinity_head is not None:
        assignments[VARIANTS[other]] = other
    reports: dict[str, dict[str, ScoreReport]] = {}
    truths: dict[str, list[Session]] = {}
    for speech_set in sets:
        sessions = {}
        for number, (system, assignment) in enumerate(assignments.items()):
            say(f"{speech_set.name}: {system}")
            output = folder / f"{speech_set.name.replace('/', '_')}_{number}"
            sessions[system] = diarize(speech_set, output, model=model_file, assignment=assignment)
        truths[speech_set.name] = sessions[MODEL]
        reports[speech_set.name] = {name: score_sessions(answered) for name, answered in sessions.items()}

    chosen = {}
    for system, with_spread in ((EMBEDDINGS, False), (MFCC, True)):
        if not with_spread and model.affinity_head is None:
            continue
        say(f"clustering for: {system}")
        features = {s.name: hear(s, truths[s.name], None if with_spread else model) for s in sets}
        setting = choose_setting(features[DEV])
        chosen[system] = str(setting)
        for name, recordings in features.items():
            answers = [heard.session._replace(answer=cluster_with_truth(heard, setting)) for heard in recordings]
            reports[name][system] = score_sessions(answers)
    for name, sessions_of_model in truths.items():
        own_speech = [session._replace(answer=one_speaker(session.answer)) for session in sessions_of_model]
        true_speech = [session._replace(answer=one_speaker(session.reference)) for session in sessions_of_model]
        reports[name][ONE_OWN], reports[name][ONE_SPEAKER] = score_sessions(own_speech), score_sessions(true_speech)
    return reports, chosen


def diarize(
    speech_set: SpeechSet, output: Path, *, model: Path | None = None, assignment: str | None = None
) -> list[Session]:
    """Run `nemo-sortformer diarize` on a set, and read back what it wrote.

    Raises:
        SystemExit: the command failed, or a recording has no answer.
    """
    script = Path(sys.executable).with_name("nemo-sortformer")
    command = [str(script)] if script.is_file() else [sys.executable, "-m", "nemo_sortformer"]
    command += ["diarize", str(speech_set.manifest), "--output-dir", str(output)]
    command += [] if model is None else ["--model", str(model)]
    command += [] if assignment is None else ["--assignment", assignment]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"`{shlex.join(command)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    pairing = pair_sessions(speech_set.manifest, output)
    if pairing.unanswered or pairing.unknown:
        raise SystemExit(f"`{speech_set.name}`: no answer to {pairing.unanswered}, no truth to {pairing.unknown}.")
    return pairing.sessions


def hear(
    speech_set: SpeechSet, sessions: Sequence[Session], model: SortformerDiarizer | None = None
) -> list[Features]:
    """What clusterers get of each recording: MFCC, or the embeddings of a model, heard in windows as by `diarize`."""
    from nemo_sortformer.inference.windows import windowed_outputs

    truth = {session.recording: session for session in sessions}
    features = []
    for entry in speech_set.entries:
        rate = 16000 if model is None else model.config.sample_rate
        audio = read_audio(entry.audio_filepath, sample_rate=rate)
        session = truth[entry.uniq_id]
        if model is None:
            features.append(Features(session, mfcc(audio, sample_rate=rate), 0.01, with_spread=True))
            continue
        embeddings = windowed_outputs(model, audio).embeddings
        assert embeddings is not None, "only models with an affinity head come here"
        repeat = max(round(model.frame_seconds / STEP_SECONDS), 1)
        frames = np.repeat(embeddings, repeat, axis=0)
        features.append(Features(session, frames, model.frame_seconds / repeat, with_spread=False))
    return features


def results(reports: Mapping[str, Mapping[str, ScoreReport]]) -> dict[str, Any]:
    """Everything measured, as JSON can hold it: summaries, limits of the model, and each recording's scores."""
    return {
        "sets": {
            name: {system: summarize(report) for system, report in systems.items()}
            for name, systems in reports.items()
        },
        "limits": {name: find_limits(systems[MODEL]) for name, systems in reports.items()},
        "differences": {name: differences(systems) for name, systems in reports.items()},
        "recordings": {
            name: {system: report.to_dict()["recordings"] for system, report in systems.items()}
            for name, systems in reports.items()
        },
    }


def differences(systems: Mapping[str, ScoreReport]) -> dict[str, tuple[float, float]]:
    """Paired bootstrap intervals of the model's DER minus that of each other system, collar 0.25 s."""
    mine = der_samples(systems[MODEL])
    return {name: interval(mine - der_samples(report)) for name, report in systems.items() if name != MODEL}


def print_record(record: Mapping[str, Any], reports: Mapping[str, Mapping[str, ScoreReport]]) -> None:
    """Tables per set as docs/results.md has them, and what limits the model."""
    checkpoint = record["checkpoint"]
    print(f"{record['machine']}, commit {record['commit']}; `{record['command']}`")
    print(f"`{checkpoint['file']}`, {checkpoint['bytes']} bytes, sha256 {checkpoint['sha256']}")
    for system, setting in record["chosen_on_dev"].items():
        print(f"{system}: {setting}, the best of nine on {DEV}")
    for name in reports:
        for collar in ("0.25", "0"):
            print(f"\n{name}: DER in % [90 % interval], collar {collar} s, overlap scored; JER without collar\n")
            print(speakers_table(record["sets"][name], f"collar_{collar}"))
    print("\nWhat limits it (collar 0.25 s):\n")
    for name in reports:
        print("\n".join(limit_lines(name, record["limits"][name], record["differences"][name])))


def write_record(record: Mapping[str, Any], out: Path) -> None:
    """Write `accuracy.json` and `images/accuracy.png` below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "accuracy.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    note = (
        f"{record['checkpoint']['file']} (sha256 {record['checkpoint']['sha256'][:12]}), commit {record['commit']}, "
        f"{record['machine']}. Clustering of the reference systems chosen on {DEV}."
    )
    wanted = {name: record["sets"][name] for name in (TEST, AMI)}
    draw_chart(wanted, out / "images" / "accuracy.png", note=note)
    say(f"written: {out / 'accuracy.json'}, {out / 'images' / 'accuracy.png'}")


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
