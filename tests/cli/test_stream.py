# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`stream` as a user runs it: lines, JSON, the live view, a microphone, and an end at any time that loses nothing."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nemo_sortformer.cli import app
from nemo_sortformer.cli.live_view import LiveView
from nemo_sortformer.data.audio import AudioError
from nemo_sortformer.data.rttm import read_rttm
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.microphone import microphone_pieces
from nemo_sortformer.inference.stream_answers import StreamUpdate

CONFIG = Path(__file__).parents[2] / "configs" / "diarizer_test.yaml"
SECONDS = 120


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random tiny model as a .nemo file."""
    import torch
    from omegaconf import OmegaConf

    from nemo_sortformer.models.diarizer import SortformerDiarizer

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.nemo"
    SortformerDiarizer(OmegaConf.load(CONFIG).model).save_to(str(path))
    return path


@pytest.fixture
def talk(tmp_path):
    """A recording of bursts of noise."""
    return write_talk(tmp_path / "talk.wav", 4)


def write_talk(path, seconds, rate=16000):
    """Bursts of noise as a WAV."""
    moments = np.arange(round(seconds * rate)) / rate
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(moments)) * (np.sin(5 * moments) > 0)
    soundfile.write(path, noise, rate)
    return path


def run(*arguments):
    """The command in this process."""
    return CliRunner().invoke(app, ["stream", *map(str, arguments)])


def lines_of(path):
    """Segments of an RTTM file as the command prints them."""
    segments = [segment for found in read_rttm(path).values() for segment in found]
    return sorted(f"{start:.3f} {end:.3f} {speaker}" for start, end, speaker in segments)


def test_lines_rttm_and_json_say_the_same(checkpoint, talk, tmp_path):
    done = run(talk, "--fast", "--model", checkpoint, "--format", "rttm,json", "--latency", "1.04")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines
    assert sorted(lines) == lines_of(talk.with_suffix(".rttm"))
    found = json.loads(talk.with_suffix(".seglst.json").read_text())
    assert sorted(f"{s['start_time']:.3f} {s['end_time']:.3f} {s['speaker']}" for s in found) == sorted(lines)

    done = run(
        talk, "--fast", "--json", "--model", checkpoint, "--output-dir", tmp_path / "other", "--latency", "1.04"
    )
    updates = [json.loads(line) for line in done.stdout.splitlines()]
    assert [u["is_last"] for u in updates][-1]
    assert updates[-1]["seconds"] == 4.0
    said = [f"{start:.3f} {end:.3f} {speaker}" for u in updates for start, end, speaker in u["finished"]]
    assert said == lines
    assert lines_of(tmp_path / "other" / "talk.rttm") == sorted(lines)


def test_a_file_runs_at_the_pace_of_its_audio_unless_told(checkpoint, tmp_path):
    path = write_talk(tmp_path / "short.wav", 1.5)
    began = time.monotonic()
    assert run(path, "--model", checkpoint).exit_code == 0
    assert time.monotonic() - began >= 1.5, "an answer cannot come before its audio"


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_stream_in_another_precision(checkpoint, talk, precision):
    done = run(talk, "--fast", "--json", "--model", checkpoint, "--precision", precision)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["is_last"] is True


def test_max_seconds_ends_the_stream(checkpoint, talk):
    done = run(talk, "--fast", "--model", checkpoint, "--max-seconds", 1.25, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1])["seconds"] == 1.25


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "takes one audio file, or `--microphone`"),
        (["talk.wav", "--microphone"], "takes one audio file, or `--microphone`"),
        (["missing.wav"], "there is no such file"),
        (["talk.wav", "--latency", "7s"], "`latency` must be one of"),
        (["talk.wav", "--precision", "int4"], "`precision` must be one of float32, bfloat16, float16, int8"),
        (["talk.wav", "--format", "mp3"], "`format` must be of"),
        (["talk.wav", "--max-seconds", "0"], "`max_seconds` must be more than 0"),
        (["talk.wav", "--input-device", "1"], "goes with `--microphone`"),
        (["talk.wav", "--model", "missing.nemo"], "must be a .nemo file"),
        (["broken.wav"], "is not audio"),
        (["done.wav"], "is there already"),
    ],
)
def test_bad_use_is_one_line_and_status_2(arguments, said, talk, monkeypatch):
    monkeypatch.chdir(talk.parent)
    Path("broken.wav").write_bytes(b"no audio at all")
    Path("done.wav").write_bytes(talk.read_bytes())
    Path("done.rttm").write_text("mine")
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert Path("done.rttm").read_text() == "mine"


def test_audio_that_breaks_off_is_answered_to_there(checkpoint, tmp_path):
    path = tmp_path / "nan.wav"
    samples = 0.1 * np.random.default_rng(0).standard_normal(5 * 16000).astype(np.float32)
    samples[3 * 16000 + 5] = np.nan
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    done = run(path, "--fast", "--model", checkpoint, "--json")
    assert done.exit_code == 1
    assert "Error after 3.0 s" in done.stderr
    assert "NaN" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["is_last"]
    assert path.with_suffix(".rttm").exists()


def test_results_that_cannot_be_written_are_shown_and_the_old_file_stays(checkpoint, talk, monkeypatch):
    old = talk.with_suffix(".rttm")
    old.write_text("old\n")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = run(talk, "--fast", "--model", checkpoint, "--overwrite")
    assert done.exit_code == 2
    assert "No space left" in done.stderr
    assert "SPEAKER talk 1" in done.stderr
    assert old.read_text() == "old\n"
    assert sorted(p.name for p in talk.parent.iterdir()) == ["talk.rttm", "talk.wav"]


def fake_sounddevice(samples, *, rate=48000, stops_at_end=False):
    """A sounddevice whose microphone hears `samples`."""

    class PortAudioError(Exception):
        pass

    class InputStream:
        active = True

        def __init__(self, *, samplerate, blocksize, device, channels, dtype, callback):
            assert (samplerate, channels, dtype) == (rate, 1, "float32")
            self.blocksize, self.callback, self.closed = blocksize, callback, False

        def start(self):
            threading.Thread(target=self.play, daemon=True).start()

        def play(self):
            for start in range(0, len(samples), self.blocksize):
                self.callback(samples[start : start + self.blocksize, None], None, None, None)
            if stops_at_end:
                self.active = False

        def close(self):
            closed.append(True)

    def query_devices(device, kind):
        if device == "no such":
            raise ValueError("No input device matching 'no such'")
        return {"default_samplerate": float(rate)}

    closed = []
    return SimpleNamespace(
        PortAudioError=PortAudioError, InputStream=InputStream, query_devices=query_devices, closed=closed
    )


def test_a_microphone_is_heard_to_the_end_and_closed(checkpoint, tmp_path, monkeypatch):
    noise = 0.1 * np.random.default_rng(0).standard_normal(48000 * 3).astype(np.float32)
    fake = fake_sounddevice(noise)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    done = run(
        "--microphone", "--max-seconds", 2, "--json", "--model", checkpoint, "--output-dir", tmp_path, "--name", "me"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["seconds"] == 2.0
    assert (tmp_path / "me.rttm").exists()
    assert fake.closed == [True]


def test_a_microphone_that_is_not_there_or_goes_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioError, match=r"nemo_sortformer\[mic\].*libportaudio2"):
        microphone_pieces()
    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice(np.zeros(4800, np.float32), stops_at_end=True))
    with pytest.raises(AudioError, match="`no such` cannot be opened"):
        microphone_pieces(device="no such")
    pieces, rate = microphone_pieces()
    assert rate == 48000
    assert len(next(pieces)) == 4800
    with pytest.raises(AudioError, match="unplugged"):
        next(pieces)


def test_a_machine_too_slow_for_its_microphone_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice(np.zeros(48000, np.float32)))
    pieces, _ = microphone_pieces(most_behind_seconds=0.3)
    time.sleep(0.1)
    with pytest.raises(AudioError, match=r"too slow.*0\.3 s"):
        list(pieces)


def test_the_view_shows_who_speaks_and_when():
    from rich.console import Console

    view = LiveView("talk.wav", latency_seconds=1.04, duration=90)
    view.heard_seconds = 31.0
    segment = Segment(20.0, 30.0, "speaker_1")
    view.show(
        StreamUpdate(
            first_frame=0,
            probs=np.zeros((1, 4), np.float32),
            frame_seconds=0.08,
            finished=(Segment(0.0, 15.0, "speaker_0"),),
            changed=(segment,),
            seconds=30.0,
        )
    )
    console = Console(width=74, record=True, file=io.StringIO())
    console.print(view.render(74))
    shown = console.export_text().splitlines()
    assert "● speaker_1" in shown[1]
    assert "speaker_0" not in shown[1]
    assert shown[2].split()[1] == "█" * 15 + "·" * 15, "a minute in 60 columns, up to what is answered"
    assert shown[3].split()[1] == "·" * 20 + "█" * 10
    assert shown[4].split() == ["0:00", "1:00"]
    for part in ("heard 0:31.0 of 1:30", "answered 0:30.0", "latency 1.04 s"):
        assert part in shown[5]
    view.heard_seconds = 300.0
    console.print(view.render(10))


def start(*arguments, **options):
    """The command as a process."""
    return subprocess.Popen([sys.executable, "-m", "nemo_sortformer", "stream", *map(str, arguments)], **options)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_heard(checkpoint, tmp_path):
    path = write_talk(tmp_path / "long.wav", 100)
    process = start(path, "--model", checkpoint, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    updates = [first, *map(json.loads, stdout.splitlines())]
    assert updates[-1]["is_last"]
    assert updates[-1]["seconds"] < 50
    said = [f"{start:.3f} {end:.3f} {speaker}" for u in updates for start, end, speaker in u["finished"]]
    assert lines_of(path.with_suffix(".rttm")) == sorted(said)


@pytest.mark.slow
def test_on_a_terminal_there_is_a_live_view(checkpoint, tmp_path):
    path = write_talk(tmp_path / "talk.wav", 6)
    ours, theirs = pty.openpty()
    process = start(
        path, "--model", checkpoint, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm-256color"}
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other end is closed
        assert process.wait(SECONDS) == 0, shown.decode()
    text = shown.decode()
    assert text.count("now") > 3, "drawn again and again"
    assert "heard" in text
    assert "talk.rttm" in text.replace("\r\n", ""), "a long path is wrapped"
    assert path.with_suffix(".rttm").exists()
