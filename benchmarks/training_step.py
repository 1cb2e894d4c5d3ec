# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Steps and batches for the benchmarks of training: one step of NeMo's diarizer or of ours, from the same weights.

A step is forward, loss, backward, clipping and AdamW on one batch that lies on the device. NeMo runs as its script
does: whole float32 parameters, with bf16 under autocast. Ours runs through the engine of
`trainer.strategy=nemo_sortformer` on one process: with bf16, layers in bf16 over float32 main parameters.
"""

from collections.abc import Callable
from typing import Any

import torch
from nemo.collections.asr.models import SortformerEncLabelModel
from torch import Tensor, nn

from benchmarks.diarize import nemo_config
from nemo_sortformer.config import ParallelConfig
from nemo_sortformer.distributed.accelerators import find_torchao
from nemo_sortformer.distributed.apply import apply, build_mesh
from nemo_sortformer.distributed.gradients import clip_by_norm
from nemo_sortformer.models.diarizer import SortformerDiarizer

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
HOP = 1280
SPEAKERS, TURNS = 4, 8


def make_step(
    device: str, layers: int, dtype: str, *, nemo: bool = False, **options: Any
) -> Callable[[Batch], Tensor]:
    """A training step of NeMo's model or of ours; it returns the loss.

    Args:
        device: cpu or cuda.
        layers: of each encoder; 18 is the published size.
        dtype: `fp32`, or `bf16`, for NeMo by autocast.
        nemo: NeMo's model.
        **options: further ones of `model.parallel`, for ours.
    """
    torch.manual_seed(0)
    cfg = nemo_config()
    cfg.encoder.n_layers = cfg.transformer_encoder.num_layers = layers
    theirs = SortformerEncLabelModel(cfg=cfg)
    if nemo:
        model: nn.Module = theirs.to(device).train()

        def loss_of(batch: Batch) -> Tensor:
            audio, audio_lengths, targets, lengths = batch
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
                probs = theirs.forward(audio_signal=audio, audio_signal_length=audio_lengths)
                return theirs._get_aux_train_evaluations(probs, targets, lengths)["loss"]
    else:
        ours = SortformerDiarizer(cfg=cfg)
        ours.load_state_dict(theirs.state_dict(), strict=False)
        del theirs
        model = ours.to(device).train()
        config = ParallelConfig(dtype=dtype, **options)
        apply(ours, config, build_mesh(config, device))

        def loss_of(batch: Batch) -> Tensor:
            return ours.compute_losses(batch)[0]

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=not nemo)
    model._optimizer = optimizer  # NeMo's losses come with the learning rate
    clip = torch.nn.utils.clip_grad_norm_ if nemo else clip_by_norm

    def step(batch: Batch) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(batch)
        loss.backward()
        clip(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def make_batch(size: int, seconds: float, device: str, seed: int = 0) -> Batch:
    """Four speakers, each a tone of its own over noise, who take turns of unlike lengths, at first one by one."""
    generator = torch.Generator().manual_seed(seed)
    frames = int(seconds * 16000) // HOP
    ends = (torch.arange(1, TURNS) + 0.8 * torch.rand(size, TURNS - 1, generator=generator) - 0.4) * frames / TURNS
    turn = torch.searchsorted(ends, torch.arange(frames).float().expand(size, -1).contiguous())
    again = torch.randint(SPEAKERS, (size, TURNS - SPEAKERS), generator=generator)
    speaker = torch.cat([torch.arange(SPEAKERS).expand(size, -1), again], dim=1).gather(1, turn)
    pitch = 100 + 300 * torch.rand(size, SPEAKERS, generator=generator)
    hertz = pitch.gather(1, speaker).repeat_interleave(HOP, dim=1)
    audio = 0.1 * torch.sin(2 * torch.pi * torch.arange(frames * HOP) / 16000 * hertz)
    audio += 0.01 * torch.randn(size, frames * HOP, generator=generator)
    targets = torch.nn.functional.one_hot(speaker, SPEAKERS).float()
    lengths = torch.full((size,), frames)
    return audio.to(device), (lengths * HOP).to(device), targets.to(device), lengths.to(device)


def why_no_float8() -> str | None:
    """What is missing for float8 layers on this machine, if anything."""
    torchao = find_torchao()
    return None if torchao.usable else f"torchao is not usable: {torchao.reason}"
