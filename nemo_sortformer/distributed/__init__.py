# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Training on several devices and in half precision: everything that knows of ranks. Models never import it.

Importing it makes `trainer.strategy=nemo_sortformer` known to Lightning; the parts load when they are used.
"""

from nemo_sortformer.distributed.registration import STRATEGY, register

__all__ = ["STRATEGY", "register"]
