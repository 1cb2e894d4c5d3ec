# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The joint model: a diarizer with its own numbers, and text heads that agree with it on who is speaker 0."""

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer import SortformerDiarizer, SortformerJointASR
from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.joint_batch import JointBatch
from nemo_sortformer.models.joint_asr import build, decode
from tests.models import joint_sessions

HEADS = ("streams", "words", "plain", "moved")


@pytest.fixture
def model(joint_cfg):
    """A joint model with a head of each kind, in evaluation mode."""
    torch.manual_seed(0)
    return SortformerJointASR(cfg=joint_cfg()).eval()


@pytest.fixture
def sessions():
    """Three sessions of different lengths."""
    return [joint_sessions.session(seed, num_words=number) for seed, number in enumerate((3, 5, 4))]


def one_of(batch: JointBatch, number: int) -> JointBatch:
    """A batch of one recording, without any padding of the others."""
    samples, frames = int(batch.audio_lengths[number]), int(batch.target_lengths[number])
    rows = slice(number, number + 1)
    texts = {}
    for name, text in batch.texts.items():
        most, longest = int(text.lengths[number]), int(text.stream_lengths[number].max())
        texts[name] = type(text)(
            text.tokens[rows, :most], text.lengths[rows], text.streams[rows, :, :longest], text.stream_lengths[rows]
        )
    return JointBatch(
        batch.audio[rows, :samples],
        batch.audio_lengths[rows],
        batch.targets[rows, :frames],
        batch.target_lengths[rows],
        texts,
    )


def test_the_diarization_half_is_the_diarizer(model, noise_batch):
    settings = OmegaConf.to_container(model.cfg, resolve=True)
    diarizer = SortformerDiarizer(cfg=OmegaConf.create(build.diarizer_settings(settings))).eval()
    own = model.state_dict()
    diarizer.load_state_dict({name: own[name] for name in diarizer.state_dict()})
    with torch.no_grad():
        assert torch.equal(diarizer(*noise_batch).logits, model(*noise_batch).logits)
        assert torch.equal(diarizer(*noise_batch).logits, model.encode(*noise_batch).logits)
    samples = noise_batch[0][0].numpy()
    assert diarizer.diarize(samples, sample_rate=16000) == model.diarize(samples, sample_rate=16000)


def test_the_loss_is_the_weighted_sum_of_its_parts_and_each_text_has_one(model, sessions):
    loss, parts, (output, _, _) = model.compute_losses(joint_sessions.batch(sessions, model.tokenizers))
    assert set(parts) == {"sort", "layer", *HEADS} == set(model.loss_weights())
    expected = parts["sort"] + 0.2 * parts["layer"] + parts["streams"] + 0.5 * parts["words"]
    assert_close(loss, expected + parts["plain"] + parts["moved"])
    assert_close(model.head_loss(output.heads), sum(model.head_loss.weights[name] * parts[name] for name in HEADS))


@pytest.mark.parametrize("gone", HEADS)
def test_a_text_head_that_is_removed_leaves_the_numbers_of_the_others(model, joint_cfg, sessions, gone):
    cfg = joint_cfg()
    del cfg.text[gone]
    fewer = SortformerJointASR(cfg=cfg).eval()
    own = model.state_dict()
    fewer.load_state_dict({name: own[name] for name in fewer.state_dict()})
    parts = model.compute_losses(joint_sessions.batch(sessions, model.tokenizers))[1]
    rest = fewer.compute_losses(joint_sessions.batch(sessions, fewer.tokenizers))[1]
    assert set(rest) == set(parts) - {gone}
    assert all(torch.equal(rest[name], parts[name]) for name in rest)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("gradient", [False, True])
def test_the_gradient_of_each_text_reaches_the_encoder(joint_cfg, sessions, name, gradient):
    torch.manual_seed(0)
    model = SortformerJointASR(cfg=joint_cfg(speaker_kernel={"kind": "learned", "gradient": gradient}))
    _, parts, _ = model.compute_losses(joint_sessions.batch(sessions, model.tokenizers))
    parts[name].backward()
    reached = {key for key, value in model.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0}
    assert any(key.startswith("encoder.") for key in reached)
    assert any(key.startswith(f"text_heads.{name}.") for key in reached)
    assert any(key.startswith("transformer_encoder.") for key in reached) == (name != "plain" or gradient)
    assert any(key.startswith("sortformer_modules.single_hidden_to_spks.") for key in reached) == gradient
    kernel = "acoustic" if name == "plain" else "states"
    assert f"speaker_kernels.{kernel}.kernel" in reached


def test_all_parameters_have_a_gradient_so_that_no_rank_waits(joint_cfg, sessions):
    model = SortformerJointASR(cfg=joint_cfg())
    model.compute_losses(joint_sessions.batch(sessions, model.tokenizers))[0].backward()
    without = {name for name, value in model.named_parameters() if value.grad is None and value.requires_grad}
    assert not {name for name in without if not name.startswith("sortformer_modules.hidden_to_spks")}


def test_what_is_said_of_a_recording_does_not_depend_on_the_others(model, sessions):
    batch = joint_sessions.batch(sessions, model.tokenizers)
    with torch.no_grad():
        together = model.compute_losses(batch)[2][0]
        for number in range(3):
            alone = model.compute_losses(one_of(batch, number))[2][0]
            for name in HEADS:
                rows = 3 if name == "streams" else 1
                ours = alone.heads[name].logits
                theirs = together.heads[name].logits[number * rows : (number + 1) * rows]
                for axis in range(1, ours.dim() - 1):
                    theirs = theirs.narrow(axis, 0, ours.shape[axis])
                lengths = alone.heads[name].input_lengths
                valid = int(alone.heads[name].lengths[0] if lengths is None else lengths[0])
                assert_close(theirs[:, :valid], ours[:, :valid], atol=2e-4, rtol=0)
    for name in HEADS:
        said = model.write_down(batch.audio, batch.audio_lengths, head=name, labels=batch.targets)[1]
        for number in range(3):
            one = one_of(batch, number)
            assert model.write_down(one.audio, one.audio_lengths, head=name, labels=one.targets)[1][0] == said[number]


@pytest.mark.parametrize("name", HEADS)
def test_who_never_speaks_says_nothing_and_silence_is_empty(model, sessions, name):
    batch = joint_sessions.batch(sessions, model.tokenizers)
    labels = torch.zeros_like(batch.targets)
    labels[1, 5:12, 1] = 1.0
    words = model.write_down(batch.audio, batch.audio_lengths, head=name, labels=labels)[1]
    assert words[0] == [] == words[2]
    assert {word.speaker for word in words[1]} <= {1}
    seconds = int(batch.audio_lengths[1]) / 16000
    assert all(0 <= word.start <= word.end <= seconds + 0.16 for word in words[1])


def test_true_labels_for_a_share_of_the_training_that_falls(joint_cfg, sessions):
    model = SortformerJointASR(cfg=joint_cfg(speaker_kernel={"labels": "mixed", "steps": 10, "true_share_end": 0.25}))
    share = model.config.speaker_kernel.true_share
    assert [share(step) for step in (0, 4, 10, 99)] == [1.0, 0.7, 0.25, 0.25]
    batch = joint_sessions.batch(sessions, model.tokenizers)
    output = model.encode(batch.audio, batch.audio_lengths)
    targets = batch.targets[:, : output.logits.shape[1]]
    assert_close(model.speaker_labels(output, targets), targets)  # step 0
    assert_close(model.eval().speaker_labels(output, targets), output.probs)
    bound = SortformerJointASR(cfg=joint_cfg(speaker_kernel={"labels": "true"})).eval()
    assert_close(bound.speaker_labels(output, targets), targets)


def test_words_without_times_are_spread_over_the_speech_of_their_slot():
    spoken = torch.zeros(20, 2, dtype=torch.bool)
    spoken[2:6, 0] = spoken[10:14, 0] = spoken[5:7, 1] = True
    turns = [decode.Turn(0, "ab cdef"), decode.Turn(1, "xy"), decode.Turn(0, "gh")]
    words = decode.spread_turns(turns, spoken, 0.1)
    assert [word.text for word in words] == ["ab", "cdef", "xy", "gh"]
    times = [(round(word.start, 3), round(word.end, 3)) for word in words]
    assert times == [(0.2, 0.4), (0.4, 1.2), (0.5, 0.7), (1.2, 1.4)]


def test_tokens_of_frames_become_words_with_times(model):
    tokenizer = model.tokenizers["streams"]
    red, blue = tokenizer.encode_text("red")[0], tokenizer.encode_text("blue")[0]
    logits = torch.full((2, 8, tokenizer.num_text_tokens + 1), -9.0)
    for frame, token in enumerate([-1, red, red, -1, red, blue, -1, blue]):
        logits[:, frame, token] = 9.0
    rows = decode.collapse(logits, torch.tensor([8, 5]))
    assert rows == [([red, red, blue, blue], [1, 4, 5, 7]), ([red, red], [1, 4])]
    words = decode.words_with_frames(tokenizer, *rows[0], 2, 0.1)
    assert [(word.text, word.speaker) for word in words] == [("red", 2), ("red", 2), ("blue", 2), ("blue", 2)]
    assert [round(word.start, 2) for word in words] == [0.1, 0.4, 0.5, 0.7]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"text": {}}, "one text head or more"),
        ({"text": {"w": None}}, "one text head or more"),
        ({"loss": {"sort_weight": 1.0}}, "`loss.pil_weight` must be 0"),
        ({"loss": {"sort_weight": 1.0, "pil_weight": 0, "tie_tolerance": 1}}, "`loss.tie_tolerance` must be null"),
        ({"text": {"sort": {"kind": "ctc", "tokenizer": {}}}}, "other than those of the parts"),
        ({"text": {"w": {"kind": "aed"}}}, "`model.text.w.tokenizer` of TextHeadConfig has no default"),
        ({"text": {"w": {"kind": "lstm", "tokenizer": {}}}}, "`model.text.w.kind` must be one of"),
        ({"text": {"w": {"kind": "ctc", "tokenizer": {"type": "bpe"}}}}, "neither"),
        ({"text": {"w": {"kind": "ctc", "tokenizer": {"type": "bpe", "dir": "/no"}}}}, "does not exist"),
        ({"text": {"w": {"kind": "ctc", "tokenizer": {"type": "spe", "dir": "/no"}}}}, "must be `bpe`"),
        ({"text": {"w": {"kind": "ctc", "tokenizer": {"typ": "bpe"}}}}, "`model.text.w.tokenizer.typ` is no key"),
        ({"text": {"w": {"kind": "ctc", "label_smoothing": 0.1, "tokenizer": {}}}}, "`label_smoothing` is for"),
        ({"speaker_kernel": {"kind": "cosine"}}, "`model.speaker_kernel.kind`"),
        ({"speaker_kernel": {"true_share_end": 2.0}}, r"`true_share_end` must be in \[0, 1\]"),
        ({"train_ds": {"mixing": {"manifest": "x.jsonl"}}}, "`utterances`"),
    ],
)
def test_bad_settings_are_named(joint_cfg, changes, message):
    with pytest.raises(ConfigError, match=message):
        SortformerJointASR(cfg=joint_cfg(**changes))


def test_a_head_that_is_null_is_left_out(joint_cfg):
    cfg = joint_cfg()
    kept = [name for name in cfg.text if name != "words"]
    cfg.text.words = None
    model = SortformerJointASR(cfg=cfg)
    assert list(model.text_heads) == list(model.tokenizers) == kept


def test_keys_of_decoders_are_checked(joint_cfg):
    cfg = joint_cfg()
    cfg.text.words.decoder.num_layer = 2
    with pytest.raises(ConfigError, match="Did you mean `num_layers`"):
        SortformerJointASR(cfg=cfg)
    cfg = joint_cfg()
    cfg.text.streams.decoder.num_attention_heads = 3
    with pytest.raises(ConfigError, match="`model.text.streams.decoder`"):
        SortformerJointASR(cfg=cfg)


def test_an_unknown_head_is_named(model, noise_batch):
    with pytest.raises(ConfigError, match="`head` must be one of streams, words, plain, moved"):
        model.write_down(*noise_batch, head="word")
