# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`diarize()` of minutes to hours at published size beside NeMo's, same weights: `python -m benchmarks.long_audio`.

The models are those of `benchmarks.diarize`. Every measurement is a process of its own: it loads one model, warms up
on two seconds, reads the WAV file, runs it, and gives segments. "memory" is what that call needs above the loaded
model; a process that comes to hold more than `--max-gigabytes` in all is stopped, and its row says so. "difference" is
the largest one of a probability from NeMo's in float32, or from our own float32 where NeMo did not get through. NeMo
runs a recording in one pass; ours does up to ten minutes, and longer ones in windows. "CPU time" is that of all
threads: where it is much less than the time of one, the machine was not quiet. Ratios above one are in our favour.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks.timing import one_call, peak_bytes, report, resident_bytes

POLL_SECONDS = 0.05
WARM_UP_SECONDS = 2.0
PRECISIONS = {"ours": "float32", "ours bfloat16": "bfloat16"}


def main() -> None:
    """Measure each length with each model, and print the table; `--measure` is how it calls itself."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 300.0, 600.0], help="ours and NeMo's")
    parser.add_argument("--only-ours", type=float, nargs="*", default=[], help="lengths that NeMo is not asked for")
    parser.add_argument("--rounds", type=int, default=1, help="processes per row, of which the fastest is taken")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    parser.add_argument("--max-gigabytes", type=float, default=20.0, help="of one process")
    parser.add_argument("--bfloat16", action="store_true", help="measure ours in bfloat16, too: other numbers")
    parser.add_argument("--measure", nargs=4, metavar=("WHO", "MODEL", "WAV", "PROBS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        measure(*arguments.measure)
        return
    from benchmarks.diarize import build_models, make_audio

    who = ["nemo", *PRECISIONS] if arguments.bfloat16 else ["nemo", "ours"]
    with tempfile.TemporaryDirectory() as folder:
        build_models(Path(folder), "cpu")  # leaves nemo.nemo
        rows = []
        for seconds in [*arguments.seconds, *arguments.only_ours]:
            wav = Path(folder) / f"{seconds:g}.wav"
            soundfile.write(wav, make_audio(seconds), 16000)
            asked = who if seconds in arguments.seconds else who[1:]
            found = {name: run_process(name, Path(folder), wav, arguments) for name in asked}
            rows += rows_of(seconds, found, Path(folder))
    report("long_audio", rows, threads=arguments.threads, rounds=arguments.rounds, seed=0)


def run_process(who: str, folder: Path, wav: Path, arguments: argparse.Namespace) -> dict[str, float | str]:
    """The best of some processes: seconds and bytes, or why there are none."""
    command = [sys.executable, "-m", "benchmarks.long_audio", "--threads", str(arguments.threads)]
    command += ["--measure", who, str(folder / "nemo.nemo"), str(wav), str(folder / f"{wav.stem} {who}.npy")]
    results: list[dict[str, float | str]] = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[1])
            while process.poll() is None:
                if resident_bytes("VmRSS", process.pid) > arguments.max_gigabytes * 1e9:
                    process.kill()
                    process.wait()
                    return {"failed": f"over {arguments.max_gigabytes:g} GB"}
                time.sleep(POLL_SECONDS)
            said.seek(0)
            text = said.read()
        if process.returncode != 0:
            out_of_memory = "allocate memory" in text or process.returncode == -9
            return {"failed": "out of memory" if out_of_memory else f"failed: {text[-2000:]}"}
        results.append(json.loads(text.splitlines()[-1]))
    return min(results, key=lambda result: result["seconds"])


def measure(who: str, model_path: str, wav: str, probs_path: str) -> None:
    """Load one model, run one recording, and print what it took as JSON."""
    from nemo.utils import logging

    logging.setLevel(logging.ERROR)
    if who == "nemo":
        from nemo.collections.asr.models import SortformerEncLabelModel

        model = SortformerEncLabelModel.restore_from(model_path, map_location="cpu").eval()
    else:
        from nemo_sortformer.models.diarizer import SortformerDiarizer

        model = SortformerDiarizer.restore_from(model_path, map_location="cpu").eval()

    def diarize(path: str) -> np.ndarray:
        if who == "nemo":
            _, (probs,) = model.diarize(audio=[path], batch_size=1, include_tensor_outputs=True, verbose=False)
            return probs[0].float().numpy()
        from nemo_sortformer.inference.diarize import diarize_recordings

        (result,) = diarize_recordings(model, path, precision=PRECISIONS[who])
        result.to_strings()
        return result.probs[:, np.argsort(result.slots)]

    with tempfile.TemporaryDirectory() as folder:
        short = Path(folder) / "warm_up.wav"
        audio, rate = soundfile.read(wav, frames=round(WARM_UP_SECONDS * 16000))
        soundfile.write(short, audio, rate)
        diarize(str(short))
    found: dict[str, object] = {}
    before = time.process_time()
    needed = peak_bytes(lambda: found.update(seconds=one_call(lambda: found.update(probs=diarize(wav)))))
    found["cpu_seconds"] = time.process_time() - before
    np.save(probs_path, found.pop("probs"))
    print(json.dumps({**found, "bytes": needed}))


def rows_of(seconds: float, found: dict[str, dict[str, float | str]], folder: Path) -> list[dict[str, object]]:
    """One row per way of running a length; what could not be measured is named."""
    rows = []
    theirs = found.get("nemo", {"failed": "not asked"})
    reference = "nemo" if "seconds" in theirs else "ours"
    for name, result in found.items():
        row: dict[str, object] = {"recording [s]": seconds, "who": name, "time [s]": result.get("seconds")}
        row["times real time"] = row["memory [MB]"] = row["time ratio"] = row["memory ratio"] = row["difference"] = (
            None
        )
        if "seconds" in result:
            row |= {"CPU time [s]": result["cpu_seconds"], "times real time": seconds / result["seconds"]}
            row["memory [MB]"] = result["bytes"] / 1e6
            if name != reference:
                row["difference"] = largest_difference(folder, seconds, name, reference)
            if name != "nemo" and "seconds" in theirs:
                row["time ratio"] = theirs["seconds"] / result["seconds"]
                row["memory ratio"] = theirs["bytes"] / result["bytes"] if result["bytes"] else None
        row["note"] = result.get("failed")
        rows.append(row)
    return rows


def largest_difference(folder: Path, seconds: float, one: str, other: str) -> float | None:
    """Largest difference of a probability between two runs, on the frames that both have."""
    paths = [folder / f"{seconds:g} {name}.npy" for name in (one, other)]
    if not all(path.is_file() for path in paths):
        return None
    a, b = (np.load(path) for path in paths)
    frames = min(len(a), len(b))
    return float(np.abs(a[:frames] - b[:frames]).max())


if __name__ == "__main__":
    main()
