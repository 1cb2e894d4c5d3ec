# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Manifests, labels, targets, data sets and loaders. Import what you need from the module that holds it."""
