# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Models: one folder each, with `build.py`, `model.py` and `steps.py`."""
