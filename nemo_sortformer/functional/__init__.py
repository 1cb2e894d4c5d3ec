# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Pure functions of tensors: torch only, and scipy in ``permutation.py``; nothing of NeMo."""
