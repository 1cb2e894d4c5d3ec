# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Time from an RTTM file to frame targets, beside NeMo's two loaders: `python -m benchmarks.target_making`.

A made-up conversation of one hour and four speakers, one thread. "From the file" reads the RTTM file each time, as
NeMo's loaders do for each item; "in memory" starts from segments that were read before, as our data sets do where one
file serves several items. The results are compared first. It prints a Markdown table; a ratio above one is in our
favour.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from nemo.collections.asr.data.audio_to_diar_label import AudioToSpeechE2ESpkDiarDataset
from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures, WaveformFeaturizer
from nemo.collections.asr.parts.utils.asr_multispeaker_utils import speaker_to_target

from nemo_sortformer.data.rttm import read_rttm, write_rttm
from nemo_sortformer.data.segment import Segment, merge_overlaps
from nemo_sortformer.data.targets import frame_targets
from nemo_sortformer.functional.arrival import sort_by_arrival

NUM_SLOTS = 4
SAMPLE_RATE = 16000


def main() -> None:
    """Compare the targets, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3600, help="length of the conversation")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is taken")
    parser.add_argument("--seed", type=int, default=0, help="of the conversation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = build_cases(Path(folder), make_conversation(arguments.seed, arguments.seconds), arguments.seconds)
        check_equal(cases)
        print(
            f"{platform.processor() or platform.machine()}, one thread; {arguments.seconds} s, {NUM_SLOTS} speakers, "
        )
        print(f"seed {arguments.seed}, median of {arguments.repeats}\n")
        print("| case | NeMo | ours | ratio |\n|---|---|---|---|")
        for case, (theirs, ours) in cases.items():
            nemo_seconds, seconds = (median_seconds(make, arguments.repeats) for make in (theirs, ours))
            print(f"| {case} | {1e3 * nemo_seconds:.0f} ms | {1e3 * seconds:.1f} ms | {nemo_seconds / seconds:.0f} |")


def make_conversation(seed: int, seconds: int) -> list[Segment]:
    """Turns of 0.3 to 4 s that follow each other with pauses and overlaps."""
    rng = np.random.default_rng(seed)
    now, segments = 0.0, []
    while now < seconds - 5.0:
        length = rng.uniform(0.3, 4.0)
        segments.append(Segment(round(now, 3), round(now + length, 3), f"speaker{rng.integers(NUM_SLOTS)}"))
        now += length * rng.uniform(0.7, 1.3)
    return merge_overlaps(segments)


def build_cases(
    folder: Path, segments: list[Segment], seconds: int
) -> dict[str, tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]]:
    """For each case NeMo's way and ours, both as functions without arguments."""
    rttm, num_samples = folder / "a.rttm", seconds * SAMPLE_RATE
    write_rttm(rttm, segments, "a")
    native, length = build_native(folder, rttm, seconds), torch.tensor([-(-seconds * 100 // 8)])
    from_file, in_memory = build_cut(seconds, num_samples), build_cut(seconds, num_samples)
    from_file.custom = {"rttm_filepath": str(rttm)}
    in_memory.supervisions = [
        SupervisionSegment(str(index), "a", row.start, row.duration, speaker=row.speaker)
        for index, row in enumerate(segments)
    ]

    def ours_in_memory() -> np.ndarray:
        return frame_targets(segments, num_samples=num_samples, num_slots=NUM_SLOTS)

    def ours_from_file() -> np.ndarray:
        return frame_targets(read_rttm(rttm)["a"], num_samples=num_samples, num_slots=NUM_SLOTS)

    def nemo_lhotse(cut: MonoCut) -> np.ndarray:
        return speaker_to_target(cut, num_speakers=NUM_SLOTS, boundary_segments=True).numpy()

    def nemo_native() -> np.ndarray:
        return native.parse_rttm_for_targets_and_lens(str(rttm), 0.0, float(seconds), length).numpy()

    return {
        "from the file, lhotse loader": (lambda: nemo_lhotse(from_file), ours_from_file),
        "from the file, native loader": (nemo_native, ours_from_file),
        "in memory, lhotse loader": (lambda: nemo_lhotse(in_memory), ours_in_memory),
    }


def build_cut(seconds: int, num_samples: int) -> MonoCut:
    """A cut of a recording that nobody opens."""
    source = AudioSource("file", [0], "a.wav")
    recording = Recording("a", [source], SAMPLE_RATE, num_samples, float(seconds))
    return MonoCut("a", 0.0, float(seconds), 0, recording=recording, custom={})


def build_native(folder: Path, rttm: Path, seconds: int) -> AudioToSpeechE2ESpkDiarDataset:
    """NeMo's native data set over the one RTTM file; its audio is a placeholder that is never read."""
    soundfile.write(folder / "a.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    line = {"audio_filepath": str(folder / "a.wav"), "rttm_filepath": str(rttm), "duration": float(seconds)}
    (folder / "a.json").write_text(json.dumps({**line, "offset": 0.0, "num_speakers": NUM_SLOTS}) + "\n")
    return AudioToSpeechE2ESpkDiarDataset(
        manifest_filepath=str(folder / "a.json"),
        soft_label_thres=0.5,
        session_len_sec=-1,
        num_spks=NUM_SLOTS,
        featurizer=WaveformFeaturizer(sample_rate=SAMPLE_RATE),
        fb_featurizer=FilterbankFeatures(n_window_size=400, n_window_stride=160),
        window_stride=0.01,
        global_rank=0,
        soft_targets=False,
        device="cpu",
    )


def check_equal(cases: dict[str, tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]]) -> None:
    """Stop where the two make different targets, order of the columns apart."""
    for case, (theirs, ours) in cases.items():
        expected, found = (sort_by_arrival(torch.from_numpy(make())[None])[0].numpy() for make in (theirs, ours))
        if expected.shape != found.shape or (expected != found).any():
            raise SystemExit(f"{case}: {(expected != found).sum()} of {found.size} labels differ from NeMo's.")


def median_seconds(make: Callable[[], np.ndarray], repeats: int) -> float:
    """Wall time of one call, after one call to warm up."""
    make()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        make()
        times.append(time.perf_counter() - start)
    return median(times)


if __name__ == "__main__":
    main()
