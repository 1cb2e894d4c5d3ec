# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the scripts beside this one share: a small diarizer, its data, and training it in any layout."""

import logging
import os
import warnings
from itertools import count

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf
from torch.distributed.tensor import DTensor

import nemo_sortformer.distributed  # noqa: F401 - the strategy
from nemo_sortformer.models.diarizer import SortformerDiarizer

warnings.filterwarnings("ignore")
for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.ERROR)
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
HOP = 1280
"""Samples per output frame."""


def settings(
    parallel=None, *, norm="layer_norm", dropout=0.0, optim=None, state_encoder="SortformerEncoder", **changes
):
    """Settings of a small diarizer without anything random, unless `dropout`."""
    transformer = {
        "_target_": f"nemo_sortformer.modules.{state_encoder}",
        "num_layers": 2,
        "hidden_size": 16,
        "inner_size": 32,
        "num_attention_heads": 2,
    }
    if state_encoder == "SortformerEncoder":
        transformer |= {"conv_kernel": 5, "dropout": dropout}
    else:
        transformer |= {"ffn_dropout": dropout}
    return OmegaConf.create(
        {
            "max_num_of_spks": 3,
            "preprocessor": {"features": 40, "dither": 0.0},
            "encoder": {
                "_target_": "nemo.collections.asr.modules.ConformerEncoder",
                "feat_in": 40,
                "n_layers": 2,
                "d_model": 32,
                "subsampling": "dw_striding",
                "subsampling_factor": 8,
                "subsampling_conv_channels": 8,
                "ff_expansion_factor": 2,
                "n_heads": 4,
                "conv_kernel_size": 5,
                "conv_norm_type": norm,
                "dropout": dropout,
                "dropout_pre_encoder": dropout,
                "dropout_emb": 0.0,
                "dropout_att": 0.0,
            },
            "sortformer_modules": {"dropout_rate": dropout},
            "transformer_encoder": transformer,
            "affinity": {"dim": 8, "weight": 0.5, "max_frames": 64},
            "loss": {"layer_weight": 0.2 if state_encoder == "SortformerEncoder" else 0.0},
            "optim": optim or {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01},
            "parallel": parallel,
            **changes,
        }
    )


def recordings(number, *, seconds=(2.0, 3.2, 1.2, 2.4), silent=()):
    """The global batch of step `number`: a list of (audio, targets), of unlike lengths."""
    items = []
    for index, duration in enumerate(seconds):
        generator = torch.Generator().manual_seed(1000 * number + index)
        frames = round(duration * 16000 / HOP)
        targets = torch.zeros(frames, 3)
        audio = 0.01 * torch.randn(frames * HOP, generator=generator)
        for slot in range(0 if index in silent else 2 + (index + number) % 2):
            start = int(torch.randint(0, frames // 2, (), generator=generator))
            end = start + int(torch.randint(3, frames // 2 + 3, (), generator=generator))
            targets[start:end, slot] = 1.0
            span = torch.arange(start * HOP, min(end, frames) * HOP)
            audio[span] += 0.2 * torch.sin(2 * torch.pi * (170 + 90 * slot + 20 * number) * span / 16000)
        items.append((audio, targets))
    return items


def collate(items):
    """Pad recordings to a batch."""
    pad = torch.nn.utils.rnn.pad_sequence
    audio, targets = zip(*items)
    return (
        pad(list(audio), batch_first=True),
        torch.tensor([len(one) for one in audio]),
        pad(list(targets), batch_first=True),
        torch.tensor([len(one) for one in targets]),
    )


def share(batches, rank, size):
    """What process `rank` of `size` reads of global batches: each `size`-th recording, from its own on."""
    return [collate(items[rank::size]) for items in batches]


class Batches(torch.utils.data.Dataset):
    """Batches made beforehand."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


class Diarizer(SortformerDiarizer):
    """A diarizer with batches of its own; it draws its affinity frames from all, so that no draw can differ."""

    data = None
    validation = None

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Batches(self.data), batch_size=None)

    def val_dataloader(self):
        return (
            [] if self.validation is None else torch.utils.data.DataLoader(Batches(self.validation), batch_size=None)
        )


class Watch(Callback):
    """Keeps the losses, and the gradients of the first step and the last, before they are clipped."""

    def __init__(self):
        self.losses, self.gradients = [], {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step in (0, trainer.max_steps - 1):
            grads = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            self.gradients[trainer.global_step] = {name: full(grad).clone() for name, grad in grads.items()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def full(tensor):
    """The whole of a tensor that may be divided."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def whole_state(model):
    """Whole weights and buffers."""
    return {name: full(value).clone() for name, value in model.state_dict().items()}


def new_model(cfg, *, trainer=None, seed=0, kind=Diarizer):
    """A model whose weights are those of `seed`."""
    torch.manual_seed(seed)
    return kind(cfg=cfg, trainer=trainer)


def data_rank(parallel):
    """Number among the data-parallel processes, and how many those are."""
    tensor = (parallel or {}).get("tensor_parallel_size", 1)
    return RANK // tensor, max(1, WORLD // tensor)


def train(
    cfg,
    batches,
    *,
    strategy="nemo_sortformer",
    validation=None,
    seed=0,
    callbacks=(),
    ckpt=None,
    kind=Diarizer,
    **options,
):
    """Train on this process's share of global batches."""
    options = {"max_steps": len(batches), "max_epochs": -1, "log_every_n_steps": 1} | options
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("SORTFORMER_DEVICES", WORLD)),
        strategy=strategy,
        logger=False,
        enable_checkpointing=options.pop("enable_checkpointing", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[watch, *callbacks],
        **options,
    )
    model = new_model(cfg, trainer=trainer, seed=seed, kind=kind)
    rank, size = data_rank(cfg.get("parallel"))
    model.data = share(batches, rank, size)
    if validation is not None:
        model.validation = share(validation, rank, size)
    trainer.fit(model, ckpt_path=ckpt)
    return trainer, model, watch


def reference(cfg, batches, *, accumulate=1, clip=None, skip=None, seed=0):
    """The same training by hand, in one process, in float32: losses, gradients and norms per step, weights at last.

    Step `skip` changes no weight.
    """
    cfg = OmegaConf.merge(cfg, {"parallel": None})
    model = new_model(cfg, seed=seed)
    model.encoder.sync_max_audio_length = False  # one process alone would wait for the others
    optim = dict(cfg.optim)
    cls = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optim.pop("name")]
    optimizer = cls([p for p in model.parameters() if p.requires_grad], **optim, foreach=False)
    model.train()
    losses, gradients, norms = [], [], []
    step = count(1)
    for items in batches:
        loss = model.compute_losses(collate(items))[0]
        (loss / accumulate).backward()
        losses.append(float(loss))
        if next(step) % accumulate:
            continue
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        trained = [p for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, clip or float("inf"))))
        if skip != len(gradients) - 1:
            optimizer.step()
        optimizer.zero_grad()
    return {"losses": losses, "gradients": gradients, "norms": norms, "weights": model.state_dict(), "model": model}


def mean_over_processes(values):
    """Mean of each number over all processes."""
    total = torch.tensor(values)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).tolist()


def everyone(value):
    """The value of each process."""
    values = [None] * WORLD
    dist.all_gather_object(values, value)
    return values


def local_bytes(tensors):
    """Bytes that this process holds of tensors."""
    parts = [one.to_local() if isinstance(one, DTensor) else one for one in tensors]
    return sum(part.numel() * part.element_size() for part in parts)


def save(result, path):
    """Save what process 0 found."""
    if RANK == 0:
        torch.save(result, path)
