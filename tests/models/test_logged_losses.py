# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What validation logs of its loss adds up to the loss."""

import pytest
import torch
from lightning.pytorch import Trainer

from nemo_sortformer.models.diarizer import SortformerDiarizer


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_the_logged_parts_add_up_to_the_logged_loss(our_cfg, tone_manifest, stage):
    prefix = {"validation": "val", "test": "test"}[stage]
    weights = {"sort": 0.3, "pil": 0.6, "layer": 0.2, "affinity": 0.7, "activity": 0.4}
    cfg = our_cfg(
        loss={f"{name}_weight": weights[name] for name in ("sort", "pil", "layer")},
        affinity={"dim": 8, "weight": weights["affinity"]},
        activity={"weight": weights["activity"]},
        **{f"{stage}_ds": {"manifest_filepath": tone_manifest([3.0, 3.5, 2.0]), "batch_size": 2}},
    )
    torch.manual_seed(1)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    model = SortformerDiarizer(cfg=cfg, trainer=trainer)
    values = (trainer.validate if stage == "validation" else trainer.test)(model, verbose=False)[0]
    parts = {name: values[f"{prefix}_loss_{name}"] for name in weights}
    assert values[f"{prefix}_loss"] == pytest.approx(sum(weights[name] * parts[name] for name in parts), rel=1e-5)
