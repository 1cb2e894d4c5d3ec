# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One argument chooses how products are computed: the model stays as it is, streams and recordings come out near."""

import numpy as np
import pytest
import torch

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.inference.diarize import diarize_recordings
from nemo_sortformer.inference.model_identity import identify
from nemo_sortformer.inference.precision import in_precision
from nemo_sortformer.inference.stream import BatchedStreamer, Streamer, stream
from nemo_sortformer.modules.int8_products import Int8Linear
from nemo_sortformer.modules.lean_conformer import LeanConformerEncoder

LATENCY = {"chunk_len": 5, "chunk_right_context": 3, "fifo_len": 20, "spkcache_len": 24, "spkcache_update_period": 12}
HEADS = {"latency": LATENCY, "override_config": {"assignment": "heads"}}


def all_probs(updates):
    return np.concatenate([update.probs for update in updates])


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "int8"])
def test_a_stream_in_another_precision_is_near_and_the_model_stays(tiny_model, make_audio, precision):
    audio = make_audio(6.0, seed=2)
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    expected = all_probs(tiny_model.stream([audio], **HEADS))
    found = all_probs(tiny_model.stream([audio], precision=precision, **HEADS))
    assert found.shape == expected.shape
    assert 0 < np.abs(found - expected).mean() < 0.05
    assert tiny_model.dtype == torch.float32
    assert list(tiny_model.state_dict()) == list(before)
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_model_that_has_the_precision_is_not_copied(tiny_model):
    assert in_precision(tiny_model, "float32") is in_precision(tiny_model, None) is tiny_model
    half, small = in_precision(tiny_model, "bfloat16"), in_precision(tiny_model, "int8")
    assert in_precision(half, "bfloat16") is half
    assert in_precision(small, "int8") is in_precision(small, None) is small
    assert in_precision(half, "float32").dtype == torch.float32
    assert half.dtype == torch.bfloat16
    assert any(isinstance(part, Int8Linear) for part in small.encoder.modules())
    assert type(tiny_model.encoder) is LeanConformerEncoder, "streams take the lean way"
    with pytest.raises(ConfigError, match="needs the model that it was made from"):
        in_precision(small, "bfloat16")


@pytest.mark.parametrize("use", [Streamer, BatchedStreamer])
def test_no_such_precision(tiny_model, use):
    with pytest.raises(
        ConfigError, match="`precision` must be one of float32, bfloat16, float16, int8, but is `int4`"
    ):
        use(tiny_model, precision="int4")


def test_8_bits_belong_to_a_cpu(tiny_model, monkeypatch):
    monkeypatch.setattr(type(tiny_model), "device", torch.device("cuda"))
    with pytest.raises(ConfigError, match="int8 runs on a CPU, but the model is on `cuda`"):
        in_precision(tiny_model, "int8")


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_stream_goes_from_one_precision_to_the_other_and_back(tiny_model, make_audio, precision):
    audio = make_audio(6.0, seed=2)
    one = Streamer(tiny_model, **HEADS)
    found = one.push(audio[:30_000])
    two = Streamer(tiny_model, state=one.state, precision=precision)
    found += two.push(audio[30_000:60_000])
    three = Streamer(tiny_model, state=two.state)
    found += [*three.push(audio[60_000:]), *three.finish()]
    expected = all_probs(stream(tiny_model, [audio], **HEADS))
    assert np.abs(all_probs(found) - expected).mean() < 0.05
    assert identify(two.model).matches(identify(tiny_model))


@pytest.mark.parametrize("assignment", ["heads", "clustering"])
def test_in_8_bits_streams_of_a_batch_are_each_as_if_alone(tiny_model, make_audio, assignment):
    small = in_precision(tiny_model, "int8")
    options = {"latency": LATENCY, "override_config": {"assignment": assignment}}
    recordings = {"loud": 3 * make_audio(5.0, seed=1), "soft": 0.01 * make_audio(4.0, seed=2)}
    batch = BatchedStreamer(small, **options)
    found = batch.push(recordings)
    for name, audio in recordings.items():
        alone = all_probs(stream(small, [audio], **options))
        probs = all_probs(found[name] + batch.finish(name))
        # a value on the edge between two whole numbers may fall to either side
        assert np.quantile(np.abs(probs - alone), 0.9) < 1e-3
        assert np.abs(probs - alone).mean() < 2e-3


@pytest.mark.parametrize("assignment", ["heads", "clustering"])
def test_whole_recordings_in_8_bits(tiny_model, make_audio, assignment):
    audio = [make_audio(8.0, seed=2)]
    options = {"sample_rate": 16000, "override_config": {"assignment": assignment}}
    [expected] = diarize_recordings(tiny_model, audio, **options)
    [found] = diarize_recordings(tiny_model, audio, precision="int8", **options)
    assert found.probs.shape[0] == expected.probs.shape[0]
    assert not any(isinstance(part, Int8Linear) for part in tiny_model.modules())
    if assignment == "heads" and found.probs.shape == expected.probs.shape and found.slots == expected.slots:
        assert 0 < np.abs(found.probs - expected.probs).mean() < 0.05
