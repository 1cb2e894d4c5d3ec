# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Speech from text by eSpeak NG, for the demo, for tests, and as additional voices to train on.

The package `espeakng-loader` carries the library and its voices; it is an optional extra. The library keeps state from
one utterance to the next, so the same text would sound a little different each time. It is therefore loaded anew for
each utterance, which takes under a millisecond: what `say` returns depends on its arguments only.
"""

from __future__ import annotations

import ctypes
import difflib
import hashlib
import math
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from nemo_sortformer.data.segment import Segment

SAMPLE_RATE = 16_000
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _PITCH = 1, 3  # numbers of espeak_SetParameter
_LONGEST_PATH = 150  # the library keeps the path of its data in 160 bytes and falls back to its build folder
_LOCK = threading.Lock()
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class SynthesizerMissingError(ImportError):
    """The optional package with the speech synthesizer is not installed."""


class SynthesisError(ValueError):
    """A voice or a setting that the synthesizer does not have."""


class _VoiceInfo(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


class SpeechSynthesizer:
    """Turns text into speech, in-process, about a thousand times as fast as it is spoken.

    The library can do one thing at a time per process: a lock makes threads wait for each other. Processes do not
    share anything. A process must not fork while one of its threads is in :meth:`say`. Where the system has one, the C
    library's `rand()` starts from 1 again.

    Raises:
        SynthesizerMissingError: `espeakng-loader` is not installed.
        SynthesisError: its data lie where the library cannot find them.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise SynthesizerMissingError(
                "Speech synthesis needs the package `espeakng-loader`: `pip install 'nemo_sortformer[demo]'`, or "
                "`pip install espeakng-loader`."
            ) from error
        self._library = str(espeakng_loader.get_library_path())
        self._data = _short_path(Path(espeakng_loader.get_data_path()))
        self._variants = sorted(p.name for p in (self._data / "voices" / "!v").iterdir() if p.is_file())
        with self._engine() as engine:
            self._identifiers = _list_voices(engine)

    def voices(self) -> list[str]:
        """Languages and accents: ``en-us``, ``en-gb-scotland``, ``de``, ..."""
        return sorted(self._identifiers)

    def variants(self) -> list[str]:
        """Timbres, each usable with any language: ``f3``, ``m7``, ``whisper``, ..."""
        return list(self._variants)

    def say(self, text: str, voice: str = "en-us", *, speed: float = 1.0, pitch: float = 1.0) -> np.ndarray:
        """Speak a text.

        Args:
            text: what to say; numbers are read in the language of the voice.
            voice: one of :meth:`voices`, alone or with a variant after a plus: ``en-us+f3``.
            speed: words per minute over the usual 175, in [0.46, 2.57].
            pitch: fundamental frequency over the usual one of the voice, in [0.5, 2].

        Returns:
            float32 samples at 16 kHz within [-1, 1], without silence at the ends, shape (samples,); none where the
            text has nothing to say. The same arguments give the same samples.

        Raises:
            SynthesisError: there is no such voice, or `speed` or `pitch` is out of range.
        """
        full_name = self._full_name(voice)
        if not 80 <= round(175 * speed) <= 450:
            raise SynthesisError(f"`speed` must be in [0.46, 2.57], but is {speed}.")
        if not 0.5 <= pitch <= 2:
            raise SynthesisError(f"`pitch` must be in [0.5, 2], but is {pitch}.")
        chunks: list[np.ndarray] = []

        def receive(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
            if samples and count > 0:
                chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
            return 0

        callback = _CALLBACK(receive)
        data = text.encode("utf-8") + b"\0"
        with self._engine() as engine:
            rate = engine.espeak_ng_GetSampleRate()
            engine.espeak_SetSynthCallback(callback)
            if engine.espeak_SetVoiceByName(full_name.encode()) != 0:
                raise SynthesisError(f"The synthesizer cannot load the voice `{voice}`.")
            engine.espeak_SetParameter(_RATE, round(175 * speed), 0)
            engine.espeak_SetParameter(_PITCH, min(99, round(50 + 50 * math.log2(pitch))), 0)
            engine.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, _UTF8, None, None)
        if not chunks:
            return np.zeros(0, dtype=np.float32)
        speech = np.concatenate(chunks).astype(np.float32) / np.float32(32768)
        return np.clip(trim_silence(soxr.resample(speech, rate, SAMPLE_RATE)), -1, 1)

    def _full_name(self, voice: str) -> str:
        language, plus, variant = voice.partition("+")
        if language not in self._identifiers:
            raise SynthesisError(f"There is no voice `{language}`.{_nearest(language, self._identifiers)}")
        if plus and variant not in self._variants:
            raise SynthesisError(f"There is no variant `{variant}`.{_nearest(variant, self._variants)}")
        return self._identifiers[language] + plus + variant

    @contextmanager
    def _engine(self) -> Iterator[ctypes.CDLL]:
        """Load the library in its first state, and unload it after use."""
        with _LOCK:
            engine = ctypes.CDLL(self._library)
            try:
                if engine.espeak_Initialize(_SYNCHRONOUS, 0, str(self._data).encode(), _DONT_EXIT) <= 0:
                    raise SynthesisError(
                        f"The synthesizer finds no data in `{self._data}`. Reinstall `espeakng-loader`."
                    )
                engine.espeak_ng_SetRandSeed(ctypes.c_long(1))  # it starts from the time of day
                if hasattr(engine, "srand"):
                    engine.srand(1)  # a few timbres draw from the C library's rand()
                yield engine
                engine.espeak_Terminate()
            finally:
                _unload(engine)


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes

    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)


def _list_voices(engine: ctypes.CDLL) -> dict[str, str]:
    """Language code -> identifier; the code itself does not load every voice."""
    engine.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_VoiceInfo))
    found = engine.espeak_ListVoices(None)
    identifiers: dict[str, str] = {}
    index = 0
    while found[index]:
        voice = found[index].contents
        code = voice.languages[1:].decode()  # the first byte is a priority
        if not voice.identifier.startswith(b"!v"):
            identifiers.setdefault(code, voice.identifier.decode())
        index += 1
    return identifiers


def _short_path(folder: Path) -> Path:
    """Give a path of `folder` that is short enough for the library: itself, or a link in the temporary folder."""
    if len(str(folder).encode()) <= _LONGEST_PATH:
        return folder
    link = Path(tempfile.gettempdir()) / f"espeak-{hashlib.sha1(str(folder).encode()).hexdigest()[:12]}"
    try:
        if not link.exists():
            link.unlink(missing_ok=True)  # a link to what is no longer there
            link.symlink_to(folder, target_is_directory=True)
    except FileExistsError:
        pass  # another process was faster
    except OSError as error:
        raise SynthesisError(
            f"The path of the synthesizer's data must have at most {_LONGEST_PATH} characters, but `{folder}` has "
            f"more, and no link to it can be made at `{link}`: {error}. Install into a folder nearer to the root."
        ) from error
    return link


def _nearest(name: str, known: dict[str, str] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(f'`{match}`' for match in near)}?" if near else ""


def trim_silence(speech: np.ndarray, *, below_db: float = 45.0) -> np.ndarray:
    """Cut off both ends as long as they are `below_db` softer than the loudest 10 ms.

    Args:
        speech: samples at 16 kHz, shape (samples,).
        below_db: how much softer, dB.
    """
    hop = SAMPLE_RATE // 100
    padded = np.pad(speech, (0, -len(speech) % hop))
    power = np.square(padded.reshape(-1, hop)).mean(axis=1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (-below_db / 10))
    if not len(loud):
        return speech[:0]
    return speech[loud[0] * hop : (loud[-1] + 1) * hop]


class SyntheticVoice(NamedTuple):
    """A synthetic person."""

    voice: str
    speed: float
    pitch: float


CAST = (
    SyntheticVoice("en-us+m3", 0.95, 0.75),
    SyntheticVoice("en-us+f2", 1.05, 1.15),
    SyntheticVoice("en-gb-scotland+m7", 1.1, 1.05),
    SyntheticVoice("en-gb+f5", 0.92, 1.4),
    SyntheticVoice("en-us-nyc+m1", 1.15, 1.3),
    SyntheticVoice("en-029+Alicia", 1.0, 0.9),
)
"""The voices of the demo, chosen to sound unlike each other."""

DIALOGUE = (
    "Good morning everyone, is the coffee ready yet?",
    "Almost. I put the kettle on a minute ago, so give it a little time.",
    "Did anybody look at the weather for our walk on Saturday?",
    "I did. They expect clouds in the morning, but the afternoon should be dry and quite warm.",
    "Then we should take the path along the river, and climb the hill after lunch.",
    "The bridge is still closed, so we would have to go round by the old mill.",
    "That adds an hour at most, and the view from the mill is lovely.",
    "Who is bringing the sandwiches this time?",
    "I can make some with cheese and tomato, and a few without butter.",
    "Wonderful. I will bring apples, and the big blanket.",
    "What about the dog? Last time she ran off after the ducks.",
    "She can come, but only if she stays on the lead near the water.",
    "My sister asked whether she may join us with the children.",
    "Of course she may. The more of us there are, the better.",
    "Then we need two cars, because the train does not stop there at weekends.",
    "Mine has five seats, and yours has four, so that is just enough.",
    "Let us meet at nine in front of the library.",
    "Nine is rather early for the children. Could we say half past?",
    "Half past nine it is. I will write it on the list.",
    "Please remember the map, since my telephone finds no signal in the valley.",
    "I have it in my bag already, next to the torch and the plasters.",
    "You think of everything. What would we do without you?",
    "Probably get lost again, like in the autumn.",
    "That was an adventure, and nobody was late for supper in the end.",
)
REACTIONS = ("Yes.", "Mm-hm.", "Oh, really?", "Right.", "I see.", "Good idea.", "No way!", "Exactly.")


def synthesize_conversation(
    seed: int = 0, num_speakers: int = 3, seconds: float = 45.0
) -> tuple[np.ndarray, list[Segment], list[str]]:
    """Let synthetic voices talk in turns, with a few overlaps and short reactions, over a light noise.

    Args:
        seed: another one gives other voices to the lines, other overlaps and gaps.
        num_speakers: how many voices take part, 1 to 6.
        seconds: length of the recording.

    Returns:
        The recording at 16 kHz, float32 within [-1, 1], shape (samples,); who speaks when, a segment per sentence,
        sorted by start; and for each of those segments what is said.

    Raises:
        SynthesisError: there are not as many voices, or no time for one line each.
        SynthesizerMissingError: `espeakng-loader` is not installed.
    """
    if not 1 <= num_speakers <= len(CAST):
        raise SynthesisError(f"`num_speakers` must be in [1, {len(CAST)}], but is {num_speakers}.")
    synthesizer = SpeechSynthesizer()
    rng = np.random.default_rng([seed, num_speakers])
    people = [CAST[k] for k in rng.permutation(len(CAST) if num_speakers > 4 else 4)[:num_speakers]]
    audio = (rng.standard_normal(round(seconds * SAMPLE_RATE)) * 10 ** (-62 / 20)).astype(np.float32)
    turns: list[tuple[Segment, str]] = []
    busy_until = [0.0] * num_speakers

    def speak(person: int, line: str, at: float) -> float | None:
        """Place the sentences of a line; returns where it ends, or None where it does not fit."""
        start, placed = max(at, busy_until[person]), []
        for sentence in re.split(r"(?<=[.?!]) ", line):
            voice, speed, pitch = people[person]
            x = synthesizer.say(sentence, voice, speed=speed, pitch=pitch)
            first = round(start * SAMPLE_RATE)
            end = (first + len(x)) / SAMPLE_RATE
            placed.append((first, x, Segment(first / SAMPLE_RATE, end, f"voice_{person + 1}"), sentence))
            start = end + rng.uniform(0.2, 0.4)
        if end > seconds - 0.1:
            return None
        for first, x, segment, sentence in placed:
            audio[first : first + len(x)] += x * np.float32(0.06 / np.sqrt(np.mean(np.square(x))))
            turns.append((segment, sentence))
        busy_until[person] = end + 0.1
        return end

    time, last, begin = 0.3, -1, int(rng.integers(len(DIALOGUE) // 2)) * 2
    for number in range(100_000):
        if number < num_speakers:
            person = number
        else:
            person = int(rng.choice([k for k in range(num_speakers) if k != last or num_speakers == 1]))
        early = number % 9 == 3 and num_speakers > 1
        start = time - rng.uniform(0.5, 0.9) if early else time + rng.uniform(0.15, 0.8)
        end = speak(person, DIALOGUE[(begin + number) % len(DIALOGUE)], start)
        if end is None:
            break
        if num_speakers > 2 and number % 5 == 4 and end - start > 2.5:
            listener = int(rng.choice([k for k in range(num_speakers) if k not in (person, last)]))
            speak(listener, REACTIONS[int(rng.integers(len(REACTIONS)))], start + rng.uniform(0.8, 1.5))
        time, last = end, person
    if len({segment.speaker for segment, _ in turns}) < num_speakers:
        raise SynthesisError(
            f"`seconds` must leave time for {num_speakers} voices, but is {seconds}. Give 6 s per voice."
        )
    turns.sort()
    audio *= np.float32(min(1.0, 0.95 / np.abs(audio).max()))
    return audio, [segment for segment, _ in turns], [text for _, text in turns]
