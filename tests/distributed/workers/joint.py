# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Trains a small joint model in several layouts, and once by hand in one process; saves what came out of each.

Arguments: the file for the results, the folder of the tokenizer, a folder for .nemo files, and the layouts.
"""

import logging as python_logging
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from nemo.utils import logging
from small import Diarizer, everyone, mean_over_processes, new_model, reference, save, settings, train, whole_state

from nemo_sortformer.data.joint_batch import collate_joint
from nemo_sortformer.models.diarizer.steps import DiarizerSteps
from nemo_sortformer.models.joint_asr import SortformerJointASR
from nemo_sortformer.models.joint_asr.steps import JointSteps

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.models import joint_sessions  # noqa: E402  the package of the tests is not installed

python_logging.disable(python_logging.WARNING)
logging.setLevel(logging.ERROR)
STEPS = 3
RESULT, TOKENIZER, FOLDER, *NAMES = sys.argv[1:]
OPTIM = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01, "eps": 1e-4}
LAYOUTS = {
    "zero1": {"zero_stage": 1},
    "zero2 recomputed": {"zero_stage": 2, "activation_checkpointing": True},
    "zero3": {"zero_stage": 3},
    "tensor": {"tensor_parallel_size": 2},
    "tensor sequence": {"tensor_parallel_size": 2, "sequence_parallel": True, "zero_stage": 3},
    "bf16": {"zero_stage": 3, "dtype": "bf16"},
    "no token counts": {"zero_stage": 2},
}


class Joint(Diarizer, SortformerJointASR):
    """A joint model with batches of its own."""

    @staticmethod
    def collate(items):
        """A batch of sessions."""
        return joint_batch(items)


def joint_settings(parallel=None):
    """Settings of a small joint model with a head of each kind, each with the true labels."""
    small = {"num_layers": 1, "num_attention_heads": 2, "inner_size": 24, "dropout": 0.0}
    text = {
        "words": {"kind": "aed", "decoder": small, "max_tokens_per_second": 4.0},
        "streams": {"kind": "ctc_streams", "decoder": small | {"upsample": 2, "conv_kernel": 3}},
        "plain": {"kind": "ctc", "reads": "acoustic", "decoder": {"dropout": 0.0}},
        "moved": {"kind": "rnnt", "decoder": {"pred_hidden": 8, "joint_hidden": 8, "dropout": 0.0}},
    }
    return settings(
        parallel,
        optim=OPTIM,
        affinity=None,
        text={name: head | {"tokenizer": {"type": "bpe", "dir": TOKENIZER}} for name, head in text.items()},
        speaker_kernel={"kind": "learned", "labels": "true"},
        loss={"sort_weight": 1.0, "pil_weight": 0.0, "layer_weight": 0.2},
    )


TOKENIZERS = new_model(joint_settings(), kind=Joint).tokenizers


def sessions(step, counts):
    """The global batch of a step: sessions of so many words."""
    made = [joint_sessions.session(10 * step + number, num_words=count) for number, count in enumerate(counts)]
    return [joint_sessions.item(*one, TOKENIZERS) for one in made]


def joint_batch(items):
    """Pad sessions to a batch."""
    return collate_joint(items, pad_ids={name: one.pad_id for name, one in TOKENIZERS.items()})


BATCHES = [sessions(step, counts) for step, counts in enumerate([(4, 2, 2, 1), (1, 0, 2, 3), (3, 0, 1, 0)])]
"""In the last step the process 1 of 2 has silence alone."""
VALIDATION = [sessions(7, (1, 4, 2, 3)), sessions(8, (5, 1, 0, 2))]


def evaluate(model):
    """Validation by hand, in one process."""
    model.eval()
    metrics = torch.nn.ModuleDict(model._evaluation_metrics())
    for metric in metrics.values():
        metric.distributed_available_fn = bool  # says no
    with torch.no_grad():
        for number, items in enumerate(VALIDATION):
            batch = joint_batch(items)
            _, parts, (output, targets, lengths) = model.compute_losses(batch)
            counts = model._counts_of(parts, targets, lengths)
            for name, part in parts.items():
                metrics[f"loss_{name}"].update(part, counts[name])
            model._update_frame_metrics(metrics, output.probs, targets, lengths)
            model._update_other_metrics(metrics, batch, output, "validation", number)
    return {f"val_{name}": float(metric.compute()) for name, metric in metrics.items()}


def say(model):
    """The scores of the labels in the first batch of validation, and what each head says."""
    batch = joint_batch(VALIDATION[0])
    model.eval()
    said = {}
    for name in model.text_heads:
        output, words = model.write_down(*batch[:2], head=name, labels=batch.targets)
        said[name] = words
    return output.logits, said


def run(name):
    """Train in one layout; what process 0 keeps of it."""
    counts = DiarizerSteps._counts_of if name == "no token counts" else JointSteps._counts_of
    with mock.patch.object(JointSteps, "_counts_of", counts):
        trainer, model, watch = train(
            joint_settings(LAYOUTS[name]),
            BATCHES,
            validation=VALIDATION,
            kind=Joint,
            check_val_every_n_epoch=None,
            val_check_interval=STEPS,
        )
    weights = whole_state(model)
    logits, said = say(model)
    file = f"{FOLDER}/{name}.nemo"
    model.cfg.target = f"{SortformerJointASR.__module__}.{SortformerJointASR.__name__}"
    model.save_to(file)
    return {
        "losses": mean_over_processes(watch.losses),
        "gradients": watch.gradients,
        "weights": weights,
        "metrics": {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val_")},
        "checksums": everyone([float(value.double().abs().sum()) for value in weights.values()]),
        "same words": len({str(one) for one in everyone(said)}) == 1,
        "logits": logits,
        "said": said,
        "file": file,
        "batch": tuple(joint_batch(VALIDATION[0])[:3]),
        "dtypes": {str(parameter.dtype) for parameter in model.parameters()},
        "skipped": None,
    }


if __name__ == "__main__":
    results = {name: run(name) for name in NAMES}
    if dist.get_rank() == 0:
        by_hand = reference(joint_settings(), BATCHES, kind=Joint)
        by_hand["metrics"] = evaluate(by_hand.pop("model"))
        for result in results.values():
            result["reference"] = by_hand
    dist.barrier()
    save(results, RESULT)
