# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Real words: a small CTC model of NeMo's that knows six sentences by heart, saved, restored, with two speakers."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.recognizer import load_asr
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.transcribe import TranscribeOptions, transcribe_recording
from nemo_sortformer.metrics import ConcatenatedPermutationWER

RATE = 16_000
LETTERS = list(" abcdefghijklmnopqrstuvwxyz")
LINES = ("red dog", "blue cat", "one big house", "go home now", "two green birds", "yes we can")
VOICES = ("en-us+m3", "en-gb+f5")
MODULES = "nemo.collections.asr.modules"
CONFIG = {
    "sample_rate": RATE,
    "labels": LETTERS,
    "preprocessor": {
        "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
        "sample_rate": RATE,
        "normalize": "per_feature",
        "window_size": 0.025,
        "window_stride": 0.01,
        "features": 40,
        "n_fft": 512,
        "pad_to": 0,
    },
    "encoder": {
        "_target_": f"{MODULES}.ConformerEncoder",
        "feat_in": 40,
        "n_layers": 2,
        "d_model": 64,
        "subsampling": "dw_striding",
        "subsampling_factor": 4,
        "subsampling_conv_channels": 16,
        "ff_expansion_factor": 2,
        "n_heads": 4,
        "conv_kernel_size": 9,
        "conv_norm_type": "layer_norm",
        "dropout": 0.0,
        "dropout_pre_encoder": 0.0,
        "dropout_att": 0.0,
    },
    "decoder": {
        "_target_": f"{MODULES}.ConvASRDecoder",
        "feat_in": 64,
        "num_classes": len(LETTERS),
        "vocabulary": LETTERS,
    },
}


@pytest.fixture(scope="module")
def spoken():
    """Each sentence by each voice."""
    pytest.importorskip("espeakng_loader", reason="the synthesizer is not installed (extra `synth`)")
    from nemo_sortformer.data.synthesis import SpeechSynthesizer

    synthesizer = SpeechSynthesizer()
    return {(k, line): 0.3 * synthesizer.say(line, voice) for k, voice in enumerate(VOICES) for line in LINES}


def batch_of(spoken, rng):
    """The sentences with silence around them, over a light noise or, as behind a mask, over nothing."""
    rows = [np.pad(samples, tuple(rng.integers(RATE // 10, RATE // 2, 2))) for samples in spoken.values()]
    lengths = torch.tensor([len(samples) for samples in rows])
    audio = torch.zeros(len(rows), int(lengths.max()))
    for number, samples in enumerate(rows):
        noise = 0.001 * rng.standard_normal(len(samples)) * (np.abs(samples) > rng.choice([-1, 0]))
        audio[number, : len(samples)] = torch.from_numpy(samples + noise)
    return audio, lengths


@pytest.fixture(scope="module")
def asr(spoken, tmp_path_factory):
    """The model, trained for half a minute, saved, and restored as a user does."""
    from nemo.collections.asr.models import EncDecCTCModel

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = EncDecCTCModel(cfg=OmegaConf.create(CONFIG))
    tokens = [torch.tensor([LETTERS.index(letter) for letter in line]) for _, line in spoken]
    targets, target_lengths = torch.cat(tokens), torch.tensor([len(row) for row in tokens])
    steps = 150
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        audio, lengths = batch_of(spoken, rng)
        log_probs, frames = model(input_signal=audio, input_signal_length=lengths)[:2]
        loss = torch.nn.functional.ctc_loss(
            log_probs.transpose(0, 1), targets, frames, target_lengths, blank=len(LETTERS), zero_infinity=True
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    path = tmp_path_factory.mktemp("asr") / "knows_six_sentences.nemo"
    model.save_to(str(path))
    return load_asr(path, device="cpu")


def session(spoken, turns, *, seed=0):
    """A recording of turns (speaker, line, pause before in seconds; negative is overlap), and the true diarization."""
    rng = np.random.default_rng(seed)
    placed, time = [], 0.5
    for speaker, line, pause in turns:
        time += pause
        samples = spoken[speaker, line]
        placed.append((time, speaker, line, samples))
        time += len(samples) / RATE
    audio = (0.001 * rng.standard_normal(round((time + 0.5) * RATE))).astype(np.float32)
    segments = []
    for start, speaker, _, samples in placed:
        first = round(start * RATE)
        audio[first : first + len(samples)] += samples
        segments.append(Segment(start, start + len(samples) / RATE, f"speaker_{speaker}"))
    duration = len(audio) / RATE
    return audio, Diarization(recording="talk", segments=tuple(sorted(segments)), duration=duration)


def cpwer(turns, transcript) -> float:
    """Of the transcript against what was said."""
    truth = [" ".join(line for speaker, line, _ in turns if speaker == k) for k in (0, 1)]
    metric = ConcatenatedPermutationWER()
    metric.update([truth], [list(transcript.texts_by_speaker().values())])
    return metric.compute().item()


TURNS = [(k, line, 1.4) for k, line in zip((0, 1, 0, 1, 1, 0, 1, 0), (*LINES, LINES[2], LINES[4]), strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["shared", "masked"])
@pytest.mark.parametrize("max_seconds", [2.5, 30.0])
def test_two_speakers_in_turns_are_written_down_without_an_error(asr, spoken, overlap, max_seconds):
    audio, diarization = session(spoken, TURNS)
    options = TranscribeOptions(overlap=overlap, max_seconds=max_seconds)
    found = transcribe_recording(asr, audio, diarization, options)
    assert cpwer(TURNS, found) == 0.0
    for word in found.words:
        assert any(
            s.start - 0.31 <= word.start and word.end <= s.end + 0.31 and s.speaker == word.speaker
            for s in diarization.segments
        )
    assert found.text == " ".join(line for _, line, _ in TURNS)
