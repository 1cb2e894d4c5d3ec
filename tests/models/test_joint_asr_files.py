# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Files of joint models: one file with all, halves of their own, decoders of NeMo's recognizers as a start."""

import json
import os
import shutil
import tarfile

import pytest
import torch
from lightning.pytorch import Trainer
from nemo.core.classes import ModelPT
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer import SortformerDiarizer, SortformerJointASR
from nemo_sortformer.config import ConfigError
from nemo_sortformer.nemo_bridge import NemoFileError
from tests.models import joint_sessions


@pytest.fixture
def saved(joint_cfg, tmp_path):
    """A joint model whose text heads read the acoustic encoder, and its file."""
    torch.manual_seed(0)
    model = SortformerJointASR(cfg=joint_cfg(reads="acoustic", level="none")).eval()
    path = str(tmp_path / "joint.nemo")
    model.save_to(path)
    return model, path


@pytest.mark.parametrize("restorer", [SortformerJointASR, SortformerDiarizer, ModelPT])
def test_a_file_holds_all_that_is_needed_on_another_machine(saved, word_tokenizer, tmp_path, restorer, monkeypatch):
    model, path = saved
    moved = str(tmp_path / "moved.nemo")
    shutil.move(path, moved)
    kept = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda name: word_tokenizer["dir"] not in str(name) and kept(name))
    again = restorer.restore_from(moved, map_location="cpu").eval()
    assert type(again) is SortformerJointASR
    batch = joint_sessions.batch([joint_sessions.session(1)], model.tokenizers)
    with torch.no_grad():
        ours, theirs = model.compute_losses(batch)[1], again.compute_losses(batch)[1]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in model.text_heads:
        written = [one.write_down(batch.audio, batch.audio_lengths, head=name)[1] for one in (model, again)]
        assert written[0] == written[1]


def test_a_restored_model_is_saved_though_its_file_is_gone(saved, tmp_path):
    again = SortformerJointASR.restore_from(saved[1], map_location="cpu")
    os.remove(saved[1])
    again.save_to(str(tmp_path / "second.nemo"))
    third = SortformerJointASR.restore_from(str(tmp_path / "second.nemo"), map_location="cpu")
    assert third.tokenizers["words"].tokens == saved[0].tokenizers["words"].tokens


def test_a_tokenizer_that_is_missing_from_the_file_is_named(saved, tmp_path):
    with tarfile.open(saved[1]) as archive:
        archive.extractall(tmp_path / "inside", filter="data")
    for file in (tmp_path / "inside").glob("*tokenizer.model"):
        file.unlink()
    with tarfile.open(tmp_path / "broken.nemo", "w") as archive:
        archive.add(tmp_path / "inside", arcname=".")
    with pytest.raises(ConfigError, match=r"tokenizer.model` is missing from the .nemo file"):
        SortformerJointASR.restore_from(str(tmp_path / "broken.nemo"), map_location="cpu")


def test_the_diarization_half_gives_equal_numbers(saved, tmp_path, noise_batch):
    saved[0].save_diarizer(str(tmp_path / "half.nemo"))
    half = ModelPT.restore_from(str(tmp_path / "half.nemo"), map_location="cpu").eval()
    assert type(half) is SortformerDiarizer
    with torch.no_grad():
        assert torch.equal(half(*noise_batch).logits, saved[0](*noise_batch).logits)


def test_a_diarizer_is_no_joint_model_but_can_start_one(saved, our_cfg, joint_cfg, tmp_path):
    path = str(tmp_path / "half.nemo")
    saved[0].save_diarizer(path)
    with pytest.raises(ConfigError, match="restore|Restore"):
        SortformerJointASR.restore_from(path, map_location="cpu")
    torch.manual_seed(7)
    other = SortformerJointASR(cfg=joint_cfg(reads="acoustic", level="none"))
    other.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": path}))
    assert_close(other.transformer_encoder.state_dict(), saved[0].transformer_encoder.state_dict())
    assert not torch.equal(other.text_heads["plain"].decoder.decoder_layers[0].weight, torch.zeros(1))


def test_the_ctc_half_is_a_model_of_nemo_with_the_same_probabilities(saved, tmp_path):
    model, _ = saved
    model.save_nemo_asr(str(tmp_path / "ctc.nemo"), "plain")
    nemo = ModelPT.restore_from(str(tmp_path / "ctc.nemo"), map_location="cpu").eval()
    assert type(nemo).__name__ == "EncDecCTCModelBPE"
    nemo.preprocessor.featurizer.dither = 0.0
    audio, lengths = 0.1 * torch.randn(1, 32000), torch.tensor([32000])
    with torch.no_grad():
        theirs, _, _ = nemo.forward(input_signal=audio, input_signal_length=lengths)
        output = model.encode(audio, lengths)
        ours = model.text_heads["plain"](states=model.text_input("plain", output, output.probs))
    number = model.tokenizers["plain"].num_text_tokens
    ours = torch.cat([ours[..., :number], ours[..., -1:]], dim=-1).log_softmax(dim=-1)
    assert_close(theirs[:, : ours.shape[1] - 1], ours[:, :-1], atol=1e-4, rtol=0)
    assert isinstance(nemo.transcribe([audio[0].numpy()], verbose=False)[0].text, str)


def test_the_transducer_half_writes_what_nemo_writes(saved, tmp_path):
    model, _ = saved
    model.save_nemo_asr(str(tmp_path / "rnnt.nemo"), "moved")
    nemo = ModelPT.restore_from(str(tmp_path / "rnnt.nemo"), map_location="cpu").eval()
    assert type(nemo).__name__ == "EncDecRNNTBPEModel"
    states = torch.randn(1, 12, 32)
    tokens, lengths = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    with torch.no_grad():
        ours = model.text_heads["moved"](states, tokens, lengths)
        predicted, _, _ = nemo.decoder(targets=tokens, target_length=lengths)
        theirs = nemo.joint(encoder_outputs=states.transpose(1, 2), decoder_outputs=predicted)
    number = model.tokenizers["moved"].num_text_tokens
    ours = torch.cat([ours[..., :number], ours[..., -1:]], dim=-1).log_softmax(dim=-1)
    assert_close(theirs, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name, why", [("words", "`aed`"), ("streams", "one stream per speaker")])
def test_what_nemo_has_no_class_for_is_said(saved, tmp_path, name, why):
    with pytest.raises(ConfigError, match=why):
        saved[0].save_nemo_asr(str(tmp_path / "x.nemo"), name)


def test_heads_that_read_states_or_kernels_cannot_be_nemos(joint_cfg, tmp_path):
    model = SortformerJointASR(cfg=joint_cfg(speaker_kernel={"kind": "sinusoidal"}))
    with pytest.raises(ConfigError, match="reads: acoustic.*speaker_kernel.kind: none"):
        model.save_nemo_asr(str(tmp_path / "x.nemo"), "moved")


def trainer():
    """One that does nothing."""
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


@pytest.mark.parametrize("source, name", [("plain", "plain"), ("plain", "streams"), ("moved", "moved")])
def test_a_text_head_starts_from_a_recognizer_of_nemo(saved, joint_cfg, tmp_path, source, name):
    path = str(tmp_path / "asr.nemo")
    saved[0].save_nemo_asr(path, source)
    torch.manual_seed(3)
    cfg = joint_cfg(reads="acoustic", level="none")
    cfg.text[name].init_from = path
    model = SortformerJointASR(cfg=cfg, trainer=trainer())
    number = model.tokenizers[name].num_text_tokens
    if source == "moved":
        ours, theirs = (one.text_heads["moved"].decoder.prediction["embed"].weight for one in (model, saved[0]))
    else:
        head = model.text_heads[name].decoder if name == "plain" else model.text_heads[name].stream.decoder
        ours = head.decoder_layers[0].weight
        theirs = saved[0].text_heads["plain"].decoder.decoder_layers[0].weight
    assert torch.equal(ours[:number], theirs[:number])
    assert torch.equal(ours[-1], theirs[-1])
    if len(ours) > number + 1:
        assert_close(ours[number], theirs[:number].mean(dim=0))


def test_an_aed_decoder_of_nemo_is_taken_but_for_rows_that_it_lacks(joint_cfg, tmp_path, saved):
    """Written as Canary's file has it: the vocabulary rounded up to eight, a table of token types, its own sines."""
    own = {f"{key}": value for key, value in saved[0].text_heads["words"].state_dict().items()}
    number = saved[0].tokenizers["words"].num_text_tokens
    weights = {key: value.clone() for key, value in own.items()}
    for key in list(weights):
        if key.endswith(("token_embedding.weight", "layer0.weight", "layer0.bias")):
            weights[key] = torch.cat([weights[key][:number], 9 * torch.ones(8 - number, *weights[key].shape[1:])])
    weights["transf_decoder._embedding.token_type_embedding.weight"] = torch.zeros(2, 32)
    weights["transf_decoder._embedding.position_embedding.pos_enc"] = torch.zeros(7, 32)
    (tmp_path / "canary").mkdir()
    torch.save(weights, tmp_path / "canary" / "model_weights.ckpt")
    (tmp_path / "canary" / "model_config.yaml").write_text(
        json.dumps({"target": "nemo.collections.asr.models.EncDecMultiTaskModel"})
    )
    torch.manual_seed(3)
    cfg = joint_cfg(reads="acoustic", level="none")
    cfg.text.words.init_from = str(tmp_path / "canary")
    head = SortformerJointASR(cfg=cfg, trainer=trainer()).text_heads["words"]
    rows = head.transf_decoder.embedding.token_embedding.weight
    assert torch.equal(rows[:number], own["transf_decoder._embedding.token_embedding.weight"][:number])
    assert_close(rows[number:], rows[:number].mean(dim=0).expand_as(rows[number:]))
    layer = "transf_decoder._decoder.layers.0.first_sub_layer.query_net.weight"
    assert torch.equal(head.state_dict()[layer], own[layer])
    assert head.log_softmax.mlp.layer0.weight is rows


def test_a_recognizer_with_other_tokens_is_refused(saved, joint_cfg, tmp_path):
    from nemo_sortformer.data.text_tokenizer import train_text_tokenizer

    saved[0].save_nemo_asr(str(tmp_path / "asr.nemo"), "plain")
    other = train_text_tokenizer(["one two six ten yes no"], tmp_path / "other", vocab_size=9, kind="word")
    cfg = joint_cfg(reads="acoustic", level="none")
    cfg.text.plain.tokenizer.dir = str(other)
    cfg.text.plain.init_from = str(tmp_path / "asr.nemo")
    with pytest.raises(NemoFileError, match="another tokenizer"):
        SortformerJointASR(cfg=cfg, trainer=trainer())
    cfg.text.words.init_from = str(tmp_path / "asr.nemo")
    cfg.text.plain.init_from = None
    with pytest.raises(NemoFileError, match="no decoder for a text head of the kind `aed`"):
        SortformerJointASR(cfg=cfg, trainer=trainer())
