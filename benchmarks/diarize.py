# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Full `diarize()` of a recording at published size beside NeMo's, same weights: `python -m benchmarks.diarize`.

NeMo's `SortformerEncLabelModel` (18 FastConformer layers of width 512, 18 Transformer layers of width 192) is made
with random weights, saved, and restored into our model. Both then read the same WAV file, run, and give segments. The
probabilities are compared first, on the frames that both have. "memory" is what one call needs above the loaded model.
Ratios above one are in our favour. Random weights give few segments: `benchmarks.postprocessing` measures those.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from nemo.collections.asr.models import SortformerEncLabelModel
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch import nn

from benchmarks.timing import best_seconds, peak_bytes, report
from nemo_sortformer.models.diarizer import SortformerDiarizer

CONFIG = Path(__file__).parents[1] / "configs" / "diarizer_published.yaml"
NEMO = "nemo.collections.asr"
MAX_DIFFERENCE = 1e-4
"""Largest difference of two probabilities that counts as the same number after 36 layers in float32."""


def main() -> None:
    """Build both models, compare their probabilities, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0], help="lengths of the recordings")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the shortest time is taken")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of a CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.setLevel(logging.ERROR)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = build_models(Path(folder), arguments.device)
        for seconds in arguments.seconds:
            path = Path(folder) / f"{seconds:g}.wav"
            soundfile.write(path, make_audio(seconds), 16000)
            difference = largest_difference(theirs, ours, path)
            calls = {name: partial(diarize, model, path) for name, model in (("nemo", theirs), ("ours", ours))}
            spent = best_seconds(calls, arguments.rounds)
            memory = {name: peak_bytes(call) for name, call in calls.items()}
            rows.append(
                {
                    "recording [s]": seconds,
                    "NeMo [s]": spent["nemo"],
                    "ours [s]": spent["ours"],
                    "time ratio": spent["nemo"] / spent["ours"],
                    "NeMo [MB]": memory["nemo"] / 1e6,
                    "ours [MB]": memory["ours"] / 1e6,
                    "memory ratio": memory["nemo"] / memory["ours"] if memory["ours"] else None,
                    "largest difference": difference,
                }
            )
    report("diarize", rows, device=arguments.device, rounds=arguments.rounds, seed=0)


def build_models(folder: Path, device: str) -> tuple[nn.Module, nn.Module]:
    """NeMo's model with random weights, and ours restored from its file."""
    torch.manual_seed(0)
    theirs = SortformerEncLabelModel(cfg=nemo_config())
    path = str(folder / "nemo.nemo")
    theirs.save_to(path)
    ours = SortformerDiarizer.restore_from(path, map_location=device)
    return theirs.to(device).eval(), ours.to(device).eval()


def nemo_config() -> DictConfig:
    """NeMo's settings of the published size, taken from our YAML of that size."""
    model = OmegaConf.to_container(OmegaConf.load(CONFIG).model, resolve=True)
    encoder = {key: value for key, value in model["encoder"].items() if key != "use_pytorch_sdpa"}  # as published
    state_encoder = dict(model["transformer_encoder"])
    state_encoder["_target_"] = f"{NEMO}.modules.transformer.transformer_encoders.TransformerEncoder"
    widths = {"fc_d_model": encoder["d_model"], "tf_d_model": state_encoder["hidden_size"]}
    data = {"manifest_filepath": None, "sample_rate": 16000, "num_spks": 4, "batch_size": 1, "num_workers": 0}
    return OmegaConf.create(
        {
            "sample_rate": 16000,
            "pil_weight": 0.5,
            "ats_weight": 0.5,
            "max_num_of_spks": 4,
            "session_len_sec": 90,
            "model_defaults": widths,
            "preprocessor": {
                "_target_": f"{NEMO}.modules.AudioToMelSpectrogramPreprocessor",
                "normalize": "per_feature",
                "window_size": 0.025,
                "sample_rate": 16000,
                "window_stride": 0.01,
                "window": "hann",
                "features": encoder["feat_in"],
                "n_fft": 512,
                "frame_splicing": 1,
                "dither": 0.00001,
            },
            "encoder": encoder,
            "sortformer_modules": {
                "_target_": f"{NEMO}.modules.sortformer_modules.SortformerModules",
                "num_spks": 4,
                "dropout_rate": 0.5,
                **widths,
            },
            "transformer_encoder": state_encoder,
            "loss": {"_target_": f"{NEMO}.losses.bce_loss.BCELoss", "weight": None, "reduction": "mean"},
            "train_ds": data,
            "validation_ds": data,
        }
    )


def make_audio(seconds: float) -> np.ndarray:
    """Tones in turns over noise, at a level that 16 bit can hold."""
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * 16000)) / 16000
    turns = np.repeat(rng.uniform(90, 400, size=int(seconds) // 2 + 1), 32000)[: len(time)]
    return 0.2 * np.sin(2 * np.pi * turns * time) + 0.01 * rng.standard_normal(len(time))


def diarize(model: nn.Module, path: Path) -> list[list[str]]:
    """From the file to lines, by the method that both models have."""
    return model.diarize(audio=[str(path)], batch_size=1, num_workers=0, verbose=False)


def largest_difference(theirs: nn.Module, ours: nn.Module, path: Path) -> float:
    """Largest difference of the probabilities; stops where it says that the two are not the same function."""
    options = {"batch_size": 1, "num_workers": 0, "include_tensor_outputs": True, "verbose": False}
    _, (expected,) = theirs.diarize(audio=[str(path)], **options)
    _, (found,) = ours.diarize(audio=[str(path)], **options)
    frames = min(expected.shape[1], found.shape[1])
    difference = (expected[:, :frames].float().cpu() - found[:, :frames].cpu()).abs().max().item()
    if not difference < MAX_DIFFERENCE:
        raise RuntimeError(f"The probabilities differ by {difference}: a benchmark of another function says nothing.")
    return difference


if __name__ == "__main__":
    main()
