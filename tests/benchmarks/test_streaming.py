# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The streaming benchmark runs, and compares the same function: it stops by itself where the numbers differ."""

import json

import pytest

from benchmarks import streaming


@pytest.mark.slow
def test_the_benchmark_runs_on_a_model_of_one_layer(capsys):
    streaming.main(
        ["--layers", "1", "--latency", "1.04s", "--batch", "2", "--rounds", "1", "--flat-minutes", "0.05", "0.3"]
    )
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = line["rows"]
    assert row["largest difference"] < 1e-5
    assert min(row["mean change by bfloat16"], row["mean change by int8"]) > row["largest difference"]
    assert min(row["NeMo [s]"], row["ours [s]"], row["ours bfloat16 [s]"], row["ours int8 [s]"], row["flat"]) > 0


def test_nemo_is_made_as_published():
    config = streaming.streaming_nemo_config()
    assert (config.encoder.n_layers, config.transformer_encoder.num_layers, config.encoder.d_model) == (17, 18, 512)
    assert (config.preprocessor.features, config.preprocessor.normalize) == (128, "NA")
    assert config.sortformer_modules.spkcache_len == 188
