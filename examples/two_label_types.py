# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Two kinds of labels at once, speaker and language, on one encoder with one loss.

    python examples/two_label_types.py --steps 1200

All is made, as a stand-in for embeddings in which both are mixed: each speaker and each language is a random vector,
and a frame is a fixed rotation of the two that are active, plus noise. A speaker may change language, and two may
speak at once. The speakers and languages of the test are new, so that nothing can be known by heart. The same model
with a single head is trained beside it for each kind, to see what sharing the encoder costs.
"""

import argparse
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer, seed_everything
from numpy.typing import NDArray
from omegaconf import OmegaConf

from nemo_sortformer import ArrayDataset, SortformerLabeler
from nemo_sortformer.cli.console import quiet_nemo

KINDS = {"speaker": 4, "language": 3}
NUM_FRAMES, NUM_DIMS = 64, 12


def main() -> None:
    """Train three models, print their errors on new classes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1200, help="training steps of each model, 16 sequences a step")
    parser.add_argument("--sequences", type=int, default=2000, help="training sequences")
    parser.add_argument("--out", type=Path, help="a .nemo file for the model with both heads")
    arguments = parser.parse_args()
    quiet_nemo(verbose=False)
    train = make_sequences(arguments.sequences, seed=0)
    test = make_sequences(200, seed=1)
    wholes = {"both heads": KINDS, **{f"{kind} alone": {kind: count} for kind, count in KINDS.items()}}
    for name, kinds in wholes.items():
        model, errors = train_and_test(kinds, train, test, arguments.steps)
        for kind in kinds:
            print(
                f"{name:15} {kind:9} error {100 * errors[f'test_der_{kind}']:5.1f} %, "
                f"as is {100 * errors[f'test_der_as_is_{kind}']:5.1f} %, "
                f"count right in {100 * errors[f'test_class_count_{kind}']:5.1f} %"
            )
        if arguments.out is not None and kinds is KINDS:
            model.save_to(str(arguments.out))


def make_sequences(number: int, seed: int) -> list[tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]]:
    """Embeddings (frames, 2 * NUM_DIMS) and the labels of both kinds, columns in random order."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(np.random.default_rng(99).normal(size=(2 * NUM_DIMS, 2 * NUM_DIMS)))[0]
    sequences = []
    for _ in range(number):
        labels = {kind: np.zeros((NUM_FRAMES, count), dtype=np.float32) for kind, count in KINDS.items()}
        counts = {kind: int(rng.integers(1, count + 1)) for kind, count in KINDS.items()}
        columns = {kind: rng.permutation(count) for kind, count in KINDS.items()}
        start = int(rng.integers(0, 4))
        while start < NUM_FRAMES:
            end = start + int(rng.integers(4, 14))
            for kind, count in counts.items():
                labels[kind][start:end, columns[kind][rng.integers(count)]] = 1
            start = end + int(rng.integers(-2, 5))
        parts = [labels[kind] @ rng.normal(size=(count, NUM_DIMS)) for kind, count in KINDS.items()]
        mixed = np.concatenate(parts, axis=1) @ rotation + 0.4 * rng.normal(size=(NUM_FRAMES, 2 * NUM_DIMS))
        sequences.append((mixed.astype(np.float32), labels))
    return sequences


def train_and_test(
    kinds: dict[str, int], train: list, test: list, steps: int
) -> tuple[SortformerLabeler, dict[str, float]]:
    """Train a model with one head per kind; its errors on the test sequences."""
    seed_everything(0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=steps, accelerator="auto", gradient_clip_val=1.0, **quiet)
    encoder = {
        "_target_": "nemo_sortformer.modules.SortformerEncoder",
        "num_layers": 4,
        "hidden_size": 64,
        "inner_size": 128,
        "num_attention_heads": 4,
        "conv_kernel": 7,
        "causal": True,
        "dropout": 0.0,
    }
    schedule = {"name": "CosineAnnealing", "warmup_steps": min(100, steps // 10), "min_lr": 1e-5}
    settings = {
        "input_dim": 2 * NUM_DIMS,
        "heads": {kind: {"num_classes": count} for kind, count in kinds.items()},
        "encoder": encoder,
        "optim": {"name": "adamw", "lr": 3e-3, "sched": schedule},
    }
    model = SortformerLabeler(cfg=OmegaConf.create(settings), trainer=trainer)
    data = ArrayDataset(train, num_classes=kinds)
    trainer.fit(model, train_dataloaders=data.loader(16, shuffle=True))
    results = trainer.test(model, dataloaders=ArrayDataset(test, num_classes=kinds).loader(50), verbose=False)
    return model, {name: float(value) for name, value in results[0].items()}


if __name__ == "__main__":
    main()
