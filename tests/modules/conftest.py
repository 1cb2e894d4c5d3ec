# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Shared by the tests of the modules: small encoders whose label estimates are really active."""

import pytest
import torch

from nemo_sortformer.modules import SortformerEncoder
from nemo_sortformer.modules.label_feedback import LabelFeedback

SIZES = {"num_layers": 4, "hidden_size": 24, "inner_size": 48, "num_attention_heads": 3}


@pytest.fixture(scope="session")
def build_sortformer():
    """A function that makes a small encoder in float64 whose columns become active at different frames."""

    def build(seed=0, **settings):
        torch.manual_seed(seed)
        encoder = SortformerEncoder(**{**SIZES, **settings}).double().eval()
        for module in encoder.modules():
            if isinstance(module, LabelFeedback):
                torch.nn.init.normal_(module.labels.weight, std=0.4)
                torch.nn.init.constant_(module.labels.bias, -3.0)
        return encoder

    return build


@pytest.fixture(scope="session")
def random_states():
    """A function that makes states in float64."""

    def make(batch=3, frames=50, width=24, seed=1):
        return torch.randn(batch, frames, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    return make
