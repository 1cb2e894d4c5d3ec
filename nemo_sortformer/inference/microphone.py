# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Audio of a microphone, piece by piece, for `model.stream`."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nemo_sortformer.data.audio import AudioError

_WAIT_SECONDS = 0.2
_INSTALL = (
    "A microphone needs the extra `mic` and the library PortAudio: pip install 'nemo_sortformer[mic]', and on Debian "
    "or Ubuntu apt install libportaudio2."
)


def microphone_pieces(
    *,
    device: str | int | None = None,
    seconds: float = 0.1,
    most_behind_seconds: float = 60.0,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Iterator[np.ndarray], int]:
    """Open a microphone.

    Args:
        device: name, or part of one, or number of the input; None is the machine's own choice.
        seconds: length of a piece.
        most_behind_seconds: the longest that pieces wait to be taken; then reading on is an error, as audio is lost.
        stopped: asked a few times per second; the pieces end where it says so.

    Returns:
        An iterator over samples (samples,) as float32, which closes the microphone when it ends; and the rate in Hz.

    Raises:
        AudioError: `sounddevice` or PortAudio is not installed, there is no such microphone, or it cannot be opened.
    """
    sounddevice = _sounddevice()
    if isinstance(device, str) and device.isdigit():
        device = int(device)
    pieces: queue.Queue[np.ndarray] = queue.Queue(maxsize=max(round(most_behind_seconds / seconds), 1))
    lost = [0]

    def take(block: np.ndarray, *_: Any) -> None:
        try:
            pieces.put_nowait(block[:, 0].copy())
        except queue.Full:
            lost[0] += 1

    try:
        rate = int(sounddevice.query_devices(device, "input")["default_samplerate"])
        stream = sounddevice.InputStream(
            samplerate=rate, blocksize=round(rate * seconds), device=device, channels=1, dtype="float32", callback=take
        )
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise AudioError(
            f"The microphone{'' if device is None else f' `{device}`'} cannot be opened: {error}. "
            "`python -m sounddevice` lists the inputs there are."
        ) from error

    def read() -> Iterator[np.ndarray]:
        try:
            while not stopped():
                if lost[0]:
                    raise AudioError(
                        f"The machine is too slow for this microphone: more than {most_behind_seconds:g} s wait. "
                        "Choose a longer latency."
                    )
                try:
                    yield pieces.get(timeout=_WAIT_SECONDS)
                except queue.Empty:
                    if not stream.active:
                        raise AudioError("The microphone has stopped; was it unplugged?") from None
        finally:
            stream.close()

    return read(), rate


def _sounddevice() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio is missing
        raise AudioError(f"{_INSTALL} ({error})") from error
    return sounddevice
