# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of exported networks: another network takes the model's place in the pipeline, and gives it back."""

import pytest

from nemo_sortformer.inference.checkpoint import shipped_checkpoint

pytest.importorskip("onnxruntime", reason="onnxruntime, of the extra `export`, is not installed")


@pytest.mark.slow
def test_another_network_answers_in_the_pipeline():
    import numpy as np

    from benchmarks.export import RecordingGraph, standing_in
    from nemo_sortformer.inference.checkpoint import load_model
    from nemo_sortformer.inference.windows import batch_outputs

    model = load_model(shipped_checkpoint(), device="cpu")
    graph = RecordingGraph(model, from_audio=False)
    audio = 0.1 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    [expected] = batch_outputs(model, [audio])
    with standing_in(model, lambda *given: list(graph(*given))):
        [found] = batch_outputs(model, [audio])
    [after] = batch_outputs(model, [audio])
    assert np.abs(found.probs - expected.probs).max() < 1e-5
    assert np.array_equal(after.probs, expected.probs)
    assert "forward_features" not in model.__dict__
