# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From a recording to who spoke when: the engine, its results, their scores and their picture.

Import what you need from the files themselves; this package imports nothing, so that it costs nothing.
"""
