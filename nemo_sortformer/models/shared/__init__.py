# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the models have in common: training and evaluation on sorted labels, their settings, their files."""
