# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Layers that two processes share, compiled one by one: the numbers of the whole model, and the same dropout."""

import pytest

pytestmark = pytest.mark.slow


def test_shared_layers_that_are_compiled_train_as_the_whole_model(run_processes):
    results = run_processes("compiled.py", 2)
    measures = ("loss", "gradient", "parameter")
    for case, found in results.items():
        assert found["graphs"] > 0, case
        assert max(found[name] for name in measures) <= (0 if "dropout" in case else 1e-5), (case, found)
        assert found["ranks differ"] == 0, case
    assert results["tensor"]["output"] < 1e-5
