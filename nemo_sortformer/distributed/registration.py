# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Makes `trainer.strategy=nemo_sortformer` known to Lightning, without loading the strategy yet."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import StrategyRegistry

STRATEGY = "nemo_sortformer"


def register() -> None:
    """Add the strategy to Lightning's registry, once."""
    if STRATEGY not in StrategyRegistry:
        StrategyRegistry.register(STRATEGY, _build, description="Sharded and tensor-parallel training of NeMo models")


def _build(**settings: Any) -> Any:
    from nemo_sortformer.distributed.strategy import SortformerStrategy

    return SortformerStrategy(**settings)


register()
