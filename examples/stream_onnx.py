# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Stream a 16 kHz WAV file with onnxruntime and numpy alone: `python stream_onnx.py out/ talk.wav`, after
`nemo-sortformer export model.nemo out/ --streaming`. Prints the time and the probability of each speaker, per frame."""

import json
import sys
import wave

import numpy as np
import onnxruntime

spec = json.load(open(f"{sys.argv[1]}/stream.json"))
step = onnxruntime.InferenceSession(f"{sys.argv[1]}/{spec['files']['onnx']}")
state = {port["name"]: np.zeros(port["shape"], port["dtype"]) for port in spec["state"]}
pcm = np.frombuffer(wave.open(sys.argv[2]).readframes(-1), "<i2").astype(np.float32) / 32768
audio = np.pad(pcm, (spec["lead_samples"], 0))
size, frame = spec["piece_samples"], 0
for start in range(0, len(pcm), spec["step_samples"]):
    piece = audio[start : start + size]  # one step: the chunk, and the context around it
    given = {"audio": np.pad(piece, (0, size - len(piece)))[None], "num_samples": np.array([len(piece)])}
    probs, (count,), *new = step.run(None, given | state)
    state = dict(zip(state, new))
    for frame, row in enumerate(probs[0, :count], start=frame + 1):
        print(f"{(frame - 1) * spec['frame_seconds']:.2f}", *(f"{p:.2f}" for p in row))
