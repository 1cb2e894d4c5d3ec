# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Tasks for the labeler: sequences of embeddings whose classes take turns, with classes kept back for the test."""
