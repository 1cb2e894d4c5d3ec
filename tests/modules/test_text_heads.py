# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Text heads: neither the neighbours in a batch nor the padding count, writing ends, kernels say who is meant."""

import math

import pytest
import torch
from torch.testing import assert_close

from nemo_sortformer.modules.attention_text_head import AttentionTextHead
from nemo_sortformer.modules.ctc_text_head import CtcTextHead, StreamTextHead
from nemo_sortformer.modules.speaker_kernel import SpeakerKernel, mixed_labels
from nemo_sortformer.modules.transducer_text_head import TransducerTextHead

BOS, EOS, PAD = 9, 10, 11


def aed(**options):
    """A decoder of twelve tokens."""
    torch.manual_seed(0)
    options = {"num_layers": 2, "num_attention_heads": 2, "max_sequence_length": 40} | options
    return AttentionTextHead(8, 12, bos_id=BOS, eos_id=EOS, pad_id=PAD, **options).eval()


@pytest.fixture
def heard():
    """States of two recordings of 10 and 6 frames, with their mask."""
    states = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(2))
    return states, torch.arange(10) < torch.tensor([[10], [6]])


def test_the_scores_of_a_recording_depend_on_nothing_beside_it(heard):
    states, mask = heard
    tokens, lengths = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([4, 2])
    head = aed()
    logits, labels, counts = head(states, mask, tokens, lengths)
    assert labels[1].tolist()[:3] == [5, 6, EOS]
    assert counts.tolist() == [5, 3]
    alone, _, _ = head(states[1:, :6], mask[1:, :6], tokens[1:, :2], lengths[1:])
    assert_close(logits[1:, :3], alone, atol=1e-5, rtol=0)
    states[1, 6:] = 100.0
    again, _, _ = head(states, mask, torch.tensor([[1, 2, 3, 4], [5, 6, 0, 999]]), lengths)
    assert_close(again[1:, :3], alone, atol=1e-5, rtol=0)


def test_a_token_is_scored_by_those_before_it_alone(heard):
    states, mask = heard
    head, lengths = aed(), torch.tensor([4, 4])
    first, _, _ = head(states, mask, torch.tensor([[1, 2, 3, 4]] * 2), lengths)
    other, _, _ = head(states, mask, torch.tensor([[1, 2, 8, 4]] * 2), lengths)
    assert_close(first[:, :3], other[:, :3])
    assert not torch.allclose(first[:, 3], other[:, 3])


@pytest.mark.parametrize("prompt", [None, [BOS, 3, 8, 3]])
def test_writing_step_by_step_gives_what_scoring_at_once_prefers(heard, prompt):
    states, mask = heard
    head = aed(prompt_ids=prompt)
    written = head.generate(states, mask, torch.tensor([12, 7]))
    for i, length in enumerate(written.lengths.tolist()):
        assert length <= (12, 7)[i]
        tokens = written.tokens[i : i + 1, :length]
        logits, _, _ = head(states[i : i + 1], mask[i : i + 1], tokens, torch.tensor([length]))
        logits[..., [BOS, PAD]] = -math.inf
        probs, best = logits.softmax(dim=-1).max(dim=-1)
        assert best[0, :length].tolist() == tokens[0].tolist()
        assert_close(written.probs[i, :length], probs[0, :length], atol=1e-5, rtol=1e-4)
        assert length == (12, 7)[i] or int(best[0, length]) == EOS


def test_a_prompt_is_read_as_tokens_before_the_text_and_not_learnt(heard):
    states, mask = heard
    tokens, lengths = torch.tensor([[1, 2, 3], [5, 6, 0]]), torch.tensor([3, 2])
    logits, labels, counts = aed(prompt_ids=[BOS, 7, 4])(states, mask, tokens, lengths)
    before = torch.tensor([[7, 4]] * 2)
    told, _, _ = aed()(states, mask, torch.cat([before, tokens], dim=1), lengths + 2)
    assert_close(logits[0], told[0, 2:])
    assert_close(logits[1, :3], told[1, 2:5])
    assert labels[0].tolist() == [1, 2, 3, EOS]
    assert counts.tolist() == [4, 3]
    assert aed(prompt_ids=[BOS, 7, 4]).generate(states, mask, torch.tensor([10**6, 0])).tokens.shape[1] <= 37


def test_writing_that_never_ends_is_bounded(heard):
    states, mask = heard
    head = aed()
    with torch.no_grad():
        head.log_softmax.mlp.layer0.bias[EOS] = -1e4
    assert head.generate(states, mask, torch.tensor([5, 0])).lengths.tolist() == [5, 0]
    assert head.generate(states, mask, torch.tensor([10**6, 3])).lengths.tolist() == [39, 3]
    assert head.generate(states, mask, torch.tensor([0, 0])).tokens.shape == (2, 0)


def test_a_text_longer_than_the_decoder_takes_is_an_error_with_a_way_out(heard):
    with pytest.raises(ValueError, match="`max_sequence_length`"):
        aed(max_sequence_length=4)(*heard, torch.zeros(2, 4, dtype=torch.long), torch.tensor([4, 4]))


def test_where_nobody_says_anything_the_end_is_learnt(heard):
    logits, labels, lengths = aed()(*heard, torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0]))
    assert logits.shape == (2, 1, 12)
    assert labels.tolist() == [[EOS], [EOS]]
    assert lengths.tolist() == [1, 1]


def test_noise_on_tokens_is_for_training_alone(heard):
    head, tokens, lengths = aed(token_noise=0.9, dropout=0.0), torch.tensor([[1, 2, 3, 4]] * 2), torch.tensor([4, 4])
    calm = head(*heard, tokens, lengths)[0]
    assert_close(calm, aed(dropout=0.0)(*heard, tokens, lengths)[0])
    head.train()
    noisy, labels, _ = head(*heard, tokens, lengths)
    assert not torch.allclose(noisy, calm)
    assert labels[0].tolist() == [1, 2, 3, 4, EOS]


def test_token_zero_is_a_token_that_learns(heard):
    head = aed()
    head(*heard, torch.zeros(2, 3, dtype=torch.long), torch.tensor([3, 3]))[0][:, 1:, 1].sum().backward()
    assert head.transf_decoder.embedding.token_embedding.weight.grad[0].abs().sum() > 0


@pytest.mark.parametrize("upsample", [1, 3])
def test_streams_depend_on_who_is_meant_not_on_the_number_of_the_slot(heard, upsample):
    states, mask = heard
    torch.manual_seed(0)
    head = StreamTextHead(8, 5, num_layers=1, num_attention_heads=2, conv_kernel=3, upsample=upsample).eval()
    labels = (torch.rand(2, 10, 3, generator=torch.Generator().manual_seed(5)) > 0.5).float()
    logits = head(states=states, mask=mask, labels=labels)
    assert logits.shape == (2, 3, 10 * upsample, 6)
    assert_close(logits.exp().sum(dim=-1), torch.ones(2, 3, 10 * upsample))
    order = [2, 0, 1]
    assert_close(head(states=states, mask=mask, labels=labels[..., order]), logits[:, order], atol=1e-5, rtol=0)
    assert not torch.allclose(logits[:, 0], logits[:, 1])
    labels[1, 6:], states[1, 6:] = 1.0, 7.0  # padding
    alone = head(states=states[1:, :6], mask=mask[1:, :6], labels=labels[1:, :6])
    found = head(states=states, mask=mask, labels=labels)[1:, :, : 6 * upsample]
    assert_close(found, alone, atol=1e-5, rtol=0)


def test_a_slot_writes_where_it_speaks(heard):
    options = {"num_layers": 1, "num_attention_heads": 2, "conv_kernel": 3, "upsample": 2}
    states, mask = heard
    labels = torch.zeros(2, 10, 2)
    labels[:, 5:7, 0] = 1.0
    found = []
    for prior in ({}, {"least_prior": 0.01, "prior_frames": 1}):
        torch.manual_seed(0)
        found.append(StreamTextHead(8, 5, **options, **prior).eval()(states=states, mask=mask, labels=labels).exp())
    free, bound = found
    assert_close(bound.sum(dim=-1), torch.ones(2, 2, 20))
    assert_close(bound[0, 0, 8:16], free[0, 0, 8:16])  # two frames and one on each side, twice as many answers
    odds = bound[..., :-1] / bound[..., -1:] / (free[..., :-1] / free[..., -1:])
    assert_close(odds[:, 0, :8], torch.full((2, 8, 5), 0.01), rtol=1e-3, atol=1e-5)
    assert_close(odds[:, 1], torch.full((2, 20, 5), 0.01), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="`least_prior`"):
        StreamTextHead(8, 5, least_prior=0.0)


def test_the_transducer_writes_what_its_scores_say_one_recording_like_in_a_batch(heard):
    torch.manual_seed(1)
    head = TransducerTextHead(8, 5, pred_hidden=8, joint_hidden=8, max_symbols=2).eval()
    states, lengths = heard[0], torch.tensor([10, 6])
    together = head.generate(states, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = head.generate(states[i : i + 1, :length], lengths[i : i + 1])[0]
        assert together[i] == alone
        assert len(alone.tokens) <= 2 * length
        assert all(0 <= frame < length for frame in alone.frames)


def test_ctc_head_refuses_an_upsampling_of_nothing():
    with pytest.raises(ValueError, match="`upsample`"):
        CtcTextHead(8, 5, upsample=0)


def test_learned_kernels_learn_and_sines_stay():
    states, labels = torch.randn(1, 4, 16), torch.ones(1, 4, 2)
    learned, fixed = SpeakerKernel(16, 2, kind="learned"), SpeakerKernel(16, 2)
    assert_close(learned(states=states, labels=labels), fixed(states=states, labels=labels))
    assert [name for name, _ in learned.named_parameters()] == ["kernel"]
    assert not list(fixed.parameters())
    with pytest.raises(ValueError, match="`kind`"):
        SpeakerKernel(16, 2, kind="cosine")


def test_labels_are_mixed_by_whole_recordings():
    true, predicted = torch.ones(200, 3, 2), torch.zeros(200, 3, 2)
    assert torch.equal(mixed_labels(true, predicted, 0.0), predicted)
    assert torch.equal(mixed_labels(true, predicted, 1.0), true)
    torch.manual_seed(0)
    mixed = mixed_labels(true, predicted, 0.3)
    assert set(mixed.flatten(1).sum(dim=1).tolist()) == {0.0, 6.0}
    assert 0.15 < float(mixed.mean()) < 0.45
