# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Stream a 16-bit WAV file (one channel, 16 kHz) with onnxruntime and numpy alone; print each speaker's probability.

`python stream_onnx.py out talk.wav`, after `nemo-sortformer export model.nemo out --streaming`; a line is a frame.
"""

import json
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime

spec = json.loads(Path(sys.argv[1], "stream.json").read_text())
lead, size, step = (spec[f"{name}_samples"] for name in ("lead", "piece", "step"))
session = onnxruntime.InferenceSession(Path(sys.argv[1], spec["files"]["onnx"]))
state = {port["name"]: np.zeros(port["shape"], port["dtype"]) for port in spec["state"]}
audio = np.pad(np.frombuffer(wave.open(sys.argv[2]).readframes(-1), "<i2") / np.float32(32768), (lead, size))  # noqa: SIM115
for start in range(0, len(audio) - lead - size, step):
    given = {"audio": audio[None, start : start + size], "num_samples": np.array([len(audio) - size - start])}
    probs, lengths, *new = session.run(None, given | state)
    state = dict(zip(state, new, strict=True))
    np.savetxt(sys.stdout, probs[0, : lengths[0]], "%.4f")
