# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Stream a 16-bit WAV file with onnxruntime and numpy alone; print the time and each speaker's probability, per frame.

`python stream_onnx.py out talk.wav`, after `nemo-sortformer export model.nemo out --streaming`.
"""

import json
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(sys.argv[1])
spec = json.loads((folder / "stream.json").read_text())
session = onnxruntime.InferenceSession(folder / spec["files"]["onnx"])
state = {port["name"]: np.zeros(port["shape"], port["dtype"]) for port in spec["state"]}
with wave.open(sys.argv[2]) as file:
    audio = np.frombuffer(file.readframes(-1), "<i2").astype(np.float32) / 32768
audio, size, time = np.pad(audio, (spec["lead_samples"], 0)), spec["piece_samples"], 0.0
for start in range(0, len(audio) - spec["lead_samples"], spec["step_samples"]):
    piece = audio[start : start + size]  # the chunk, and the context around it
    given = {"audio": np.pad(piece, (0, size - len(piece)))[None], "num_samples": np.array([len(piece)])}
    probs, lengths, *new = session.run(None, given | state)
    state = dict(zip(state, new, strict=True))
    for row in probs[0, : lengths[0]]:
        print(f"{time:.2f}", *(f"{p:.4f}" for p in row))
        time += spec["frame_seconds"]
