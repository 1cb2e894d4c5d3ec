# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Wrong words and speakers of joint models, and of a recognizer with a diarizer: `python -m benchmarks.joint_asr`.

    python -m benchmarks.joint_asr --data joint_asr_data --sets dev_2 test_2 \
        --joint "joint model=joint.nemo" --joint "its serialized text=joint.nemo#words" \
        --true-labels "joint model=joint.nemo" --separate "recognizer and diarizer=asr.nemo" --out docs/joint_asr.json

The sets are folders of `--data`, as examples/prepare_joint_asr.py writes them. All systems go the way of a user,
`transcribe_with_speakers`. Where the recognizer of `--separate` is a joint model, its text heads write and the other
model says who speaks. `--true-labels` tells a joint model who speaks when, which bounds what its text heads can
reach. `--set key=value` overrides the settings of the diarization, e.g. `assignment=heads`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from benchmarks.timing import commit, machine, markdown
from nemo_sortformer.cli.console import quiet_nemo
from nemo_sortformer.data.audio import audio_info
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.data.rttm import read_rttm
from nemo_sortformer.data.targets import named_targets
from nemo_sortformer.inference.checkpoint import load_model
from nemo_sortformer.inference.diarize import diarize_recordings
from nemo_sortformer.inference.recognizer import load_asr
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.transcribe import transcribe_with_speakers
from nemo_sortformer.inference.transcript import Transcript
from nemo_sortformer.inference.word_score import WordReport, score_words
from nemo_sortformer.inference.word_score_inputs import pair_words

RESAMPLES, LEVEL, SEED = 2000, 95, 0


class System(NamedTuple):
    """A way to transcribe a manifest."""

    name: str
    run: Callable[[Path], list[Transcript]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Transcribe every set with every system, print a table, and write it where a file is named."""
    parser = argparse.ArgumentParser(prog="benchmarks.joint_asr", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=["dev_2", "test_1", "test_2", "test_3"])
    parser.add_argument("--joint", action="append", default=[], metavar="NAME=FILE[#HEAD]")
    parser.add_argument("--true-labels", action="append", default=[], metavar="NAME=FILE[#HEAD]")
    parser.add_argument("--separate", action="append", default=[], metavar="NAME=RECOGNIZER[,DIARIZER]")
    parser.add_argument("--overlap", default="masked", help="how a recognizer hears overlaps: shared or masked")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the diarization")
    parser.add_argument("--curves", action="append", default=[], metavar="NAME=FOLDER", help="TensorBoard logs")
    parser.add_argument("--out", type=Path, help="a JSON file for all of it; the curves go to images/ beside it")
    options = parser.parse_args(arguments)
    quiet_nemo(verbose=False)
    override = OmegaConf.to_container(OmegaConf.from_dotlist(options.set)) or None
    rows, details = [], {}
    for system in systems(options, override):
        for name in options.sets:
            manifest = options.data / name / "manifest.jsonl"
            report = score_words(pair_words(manifest, system.run(manifest)).sessions)
            rows.append({"system": system.name, "set": name, **row(report)})
            details[f"{system.name}, {name}"] = [
                [s.recording, s.cpwer.errors, s.cpwer.words] for s in report.recordings
            ]
            sys.stderr.write(f"{system.name}, {name}: cpWER {rows[-1]['cpWER %']}\n")
    print(markdown(rows))
    if options.out is not None:
        given = sys.argv[1:] if arguments is None else arguments
        record = {
            "benchmark": "joint_asr",
            "command": f"python -m benchmarks.joint_asr {shlex.join(given)}",
            "commit": commit(),
            "machine": machine(),
            "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "seed": SEED, "over": "sessions, errors pooled"},
            "rows": rows,
            "curves": {
                name: read_curves(Path(folder)) for name, _, folder in (c.partition("=") for c in options.curves)
            },
            "errors_and_words_by_session": details,
        }
        options.out.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")
        if options.curves:
            draw_curves(record["curves"], options.out.parent / "images" / f"{options.out.stem}.png")


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of what validation logged of a run, and of the losses of its text heads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.rglob("events.out.tfevents*")):
        log = EventAccumulator(str(file), size_guidance={"scalars": 0})
        log.Reload()
        for tag in log.Tags()["scalars"]:
            if tag.startswith(("val_cpwer", "val_der")):
                found.setdefault(tag, []).extend((event.step, round(event.value, 4)) for event in log.Scalars(tag))
    return found


def draw_curves(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """One panel for wrong words, one for wrong speakers, a line per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    for ax, tag, title in zip(
        figure.subplots(1, 2), ("val_cpwer", "val_der"), ("cpWER", "DER, no collar"), strict=True
    ):
        for name, logged in curves.items():
            points = logged.get(tag, [])
            ax.plot([step for step, _ in points], [100 * value for _, value in points], marker=".", label=name)
        ax.set(xlabel="training steps", ylabel=f"{title}, % (sessions of dev speakers)", ylim=(0, None))
        ax.grid(alpha=0.25)
        ax.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def systems(options: argparse.Namespace, override: Any) -> list[System]:
    """What the command line names, in its order."""

    def joint(file: str, head: str | None, *, told: bool) -> Callable[[Path], list[Transcript]]:
        model = load_asr(file)

        def run(manifest: Path) -> list[Transcript]:
            known = true_diarizations(manifest, model.num_slots) if told else None
            more = {} if told else {"override_config": override}
            return model.transcribe_sessions(str(manifest), head=head, diarizations=known, **more)

        return run

    def separate(asr: str, diarizer: str | None) -> Callable[[Path], list[Transcript]]:
        model = load_asr(asr)

        def run(manifest: Path) -> list[Transcript]:
            if hasattr(model, "transcribe_sessions"):  # a joint model of which the text heads alone are asked
                found = diarize_recordings(load_model(diarizer), str(manifest), override_config=override)
                return model.transcribe_sessions(str(manifest), diarizations=found)
            return transcribe_with_speakers(
                str(manifest), model, diarizer, overlap=options.overlap, override_config=override
            )

        return run

    found = []
    for told, given in ((False, options.joint), (True, options.true_labels)):
        for one in given:
            name, _, file = one.partition("=")
            file, _, head = file.partition("#")
            found.append(System(name + (", true labels" if told else ""), joint(file, head or None, told=told)))
    for one in options.separate:
        name, _, files = one.partition("=")
        asr, _, diarizer = files.partition(",")
        found.append(System(name, separate(asr, diarizer or None)))
    return found


def true_diarizations(manifest: Path, num_slots: int) -> list[Diarization]:
    """Who speaks when by the RTTM files of a manifest, in the form of an answer."""
    result = []
    for entry in read_manifest(manifest):
        (segments,) = read_rttm(entry.rttm_filepath).values()
        info = audio_info(entry.audio_filepath)
        targets, speakers = named_targets(
            segments, num_samples=round(info.seconds * 16000), num_slots=num_slots, subsampling=8
        )
        names = {speaker: f"speaker_{slot}" for slot, speaker in enumerate(speakers)}
        result.append(
            Diarization(
                recording=entry.uniq_id,
                segments=tuple(s._replace(speaker=names[s.speaker]) for s in segments),
                duration=info.seconds,
                probs=targets,
            )
        )
    return result


def row(report: WordReport) -> dict[str, object]:
    """One line of the table: rates in percent."""
    low, high = interval(report)
    wrong = report.cpwer
    return {
        "sessions": len(report.recordings),
        "words": wrong.words,
        "cpWER %": f"{100 * wrong.rate:.1f} [{low:.1f}, {high:.1f}]",
        "insertions %": round(100 * wrong.insertions / max(wrong.words, 1), 1),
        "deletions %": round(100 * wrong.deletions / max(wrong.words, 1), 1),
        "tcpWER %": round(100 * report.tcpwer.rate, 1),
        "DER of words %": round(100 * report.diarization.der, 1),
        "speakers right %": round(100 * report.speaker_count_accuracy, 1),
    }


def by_system(records: Sequence[Mapping[str, Any]]) -> str:
    """The cpWER of several runs of this command as one table: a row per system, a column per set."""
    rates: dict[str, dict[str, object]] = {}
    for line in (line for record in records for line in record["rows"]):
        rates.setdefault(line["system"], {})[line["set"]] = line["cpWER %"]
    sets = sorted({name for found in rates.values() for name in found})
    return markdown([{"system": system} | {name: found.get(name) for name in sets} for system, found in rates.items()])


def interval(report: WordReport) -> tuple[float, float]:
    """Bootstrap interval of cpWER over sessions, in percent."""
    errors = np.array([[one.cpwer.errors, one.cpwer.words] for one in report.recordings], dtype=float)
    drawn = np.random.default_rng(SEED).integers(len(errors), size=(RESAMPLES, len(errors)))
    sums = errors[drawn].sum(axis=1)
    low, high = np.percentile(100 * sums[:, 0] / np.maximum(sums[:, 1], 1), [50 - LEVEL / 2, 50 + LEVEL / 2])
    return float(low), float(high)


if __name__ == "__main__":
    main()
