# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Joint models with NeMo's tokenizers of several languages, and a translation beside the words."""

import json
import os

import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer import SortformerJointASR
from nemo_sortformer.config import ConfigError
from nemo_sortformer.functional.serialized import per_speaker, serialize
from tests.models import joint_sessions
from tests.models.conftest import FRONT_END, conformer

SPANISH = dict(zip(joint_sessions.WORDS, ("rojo", "verde", "azul", "blanco", "negro"), strict=True))
PROMPT = ("endoftext", "startoftranscript", "nospeech", "pnc", "nopnc", "en", "es", "transcribe", "translate")
STEPS = 150


def spanish(text):
    return " ".join(SPANISH[word] for word in text.split())


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """NeMo's settings of an aggregate of English and Spanish, and of the same with Canary's prompt."""
    from sentencepiece import SentencePieceTrainer

    from nemo_sortformer.data.text_tokenizer import train_text_tokenizer

    folder = tmp_path_factory.mktemp("tokenizers")
    langs = {}
    for language, words in (("en", SPANISH), ("es", SPANISH.values())):
        made = train_text_tokenizer([" ".join(words)] * 3, folder / language, vocab_size=len(SPANISH) + 3, kind="word")
        langs[language] = {"type": "bpe", "dir": str(made)}
    (folder / "prompt").mkdir()
    (folder / "text").write_text("a b c d\n" * 20)
    SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "prompt" / "tokenizer"),
        vocab_size=len(PROMPT) + 10,
        model_type="bpe",
        user_defined_symbols=["<pad>", *(f"<|{name}|>" for name in PROMPT)],
        minloglevel=2,
        hard_vocab_limit=False,
    )
    canary = {
        "type": "agg",
        "langs": {"spl_tokens": {"type": "bpe", "dir": str(folder / "prompt")}, **langs},
        "custom_tokenizer": {"_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer"},
    }
    return {"agg": {"type": "agg", "langs": langs}, "canary": canary}


@pytest.fixture(scope="module")
def sessions():
    return [joint_sessions.session(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def manifest(sessions, tmp_path_factory):
    """The sessions as files, whose SegLST has each word in both languages."""
    folder = tmp_path_factory.mktemp("sessions")
    lines = []
    for number, (audio, words) in enumerate(sessions):
        soundfile.write(folder / f"{number}.wav", audio, 16000)
        rows = [
            {
                "session_id": str(number),
                "speaker": f"s{word.speaker}",
                "start_time": word.start,
                "end_time": word.end,
                "words": word.text,
                "translation": SPANISH[word.text],
            }
            for word in words
        ]
        (folder / f"{number}.json").write_text(json.dumps(rows))
        lines.append({"audio_filepath": f"{number}.wav", "duration": len(audio) / 16000})
        lines[-1]["seglst_filepath"] = f"{number}.json"
    (folder / "sessions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder / "sessions.jsonl")


def settings(tokenizers, manifest, kinds):
    """A model with two texts by each kind of head; `kinds` gives the tokenizer of each."""
    small = {"num_layers": 1, "num_attention_heads": 2, "dropout": 0.0}
    text = {}
    for kind, tokenizer in kinds.items():
        decoder = {
            "ctc_streams": small | {"upsample": 2},
            "aed": small,
            "ctc": {"dropout": 0.0},
            "rnnt": {"pred_hidden": 8, "joint_hidden": 8, "dropout": 0.0},
        }[kind]
        for name, language in (("words", "en"), ("translation", "es")):
            text[f"{name}_{kind}"] = {
                "field": name,
                "kind": kind,
                "decoder": decoder,
                "weight": 1.0 if name == "words" else 0.7,
                "tokenizer": tokenizers[tokenizer] | {"language": language},
            }
            if kind == "aed" and tokenizer == "canary":
                task = "asr" if language == "en" else "s2t_translation"
                prompt = {"format": "canary", "source_lang": "en", "target_lang": language, "task": task, "pnc": False}
                text[f"{name}_{kind}"]["prompt"] = prompt
    encoder = {"num_layers": 2, "hidden_size": 48, "inner_size": 96, "num_attention_heads": 2, "conv_kernel": 7}
    return OmegaConf.create(
        {
            "max_num_of_spks": 3,
            "preprocessor": dict(FRONT_END),
            "encoder": conformer(d_model=48, subsampling="stacking_norm"),
            "transformer_encoder": {
                "_target_": "nemo_sortformer.modules.SortformerEncoder",
                "dropout": 0.0,
                **encoder,
            },
            "sortformer_modules": {"dropout_rate": 0.0},
            "loss": {"sort_weight": 1.0, "pil_weight": 0.0, "layer_weight": 0.2},
            "speaker_kernel": {"labels": "mixed", "true_share_end": 1.0},
            "text": text,
            "train_ds": {"manifest_filepath": manifest, "batch_size": 4, "shuffle": False},
        }
    )


def train(model, steps):
    """Train on the one batch that there is; the losses."""
    [batch] = model.train_dataloader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 20)
        optimizer.zero_grad()
        loss = model.compute_losses(batch)[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss))
    model.eval()
    return batch, losses


@pytest.mark.parametrize("name", ["agg", "canary"])
def test_models_with_tokenizers_of_languages_train_are_kept_and_write_both_texts(
    tokenizers, manifest, sessions, name, tmp_path
):
    torch.manual_seed(0)
    cfg = settings(tokenizers, manifest, {"ctc_streams": name, "aed": name, "ctc": name, "rnnt": name})
    model = SortformerJointASR(cfg=cfg)
    batch, losses = train(model, 4)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        loss, parts, (output, _, _) = model.compute_losses(batch)
    assert_close(loss, sum(weight * parts[part] for part, weight in model.loss_weights().items()))
    assert set(parts) == {"sort", "layer", *cfg.text}

    for number, (_, words) in enumerate(sessions):  # both texts of the data, by the speakers of the labels
        turns = serialize(words, "word", tie_seconds=0.0)
        for head, tokenizer in model.tokenizers.items():
            text, translated = batch.texts[head], head.startswith("translation")
            expected = [spanish(one) if translated else one for one in per_speaker(turns, 3)]
            assert per_speaker(tokenizer.decode(text.tokens[number, : text.lengths[number]].tolist()), 3) == expected
            rows = zip(text.streams[number].tolist(), text.stream_lengths[number].tolist(), strict=True)
            assert [tokenizer.decode_text(row[:length]) for row, length in rows] == expected
    tags = [
        [
            [row.index(i) for i in model.tokenizers[head].speaker_ids if i in row]
            for row in batch.texts[head].tokens.tolist()
        ]
        for head in ("words_aed", "translation_aed")
    ]
    assert tags[0] == tags[1]

    path = tmp_path / "joint.nemo"
    model.save_to(str(path))
    again = SortformerJointASR.restore_from(str(path), map_location="cpu").eval()
    for head in model.text_heads:
        assert again.tokenizers[head].tokens == model.tokenizers[head].tokens
        written = [one.write_down(batch.audio, batch.audio_lengths, head=head)[1] for one in (model, again)]
        assert written[0] == written[1]
    with torch.no_grad():
        assert_close(again.compute_losses(batch)[1], parts, rtol=0, atol=0)
    os.remove(path)
    again.save_to(str(path))
    third = SortformerJointASR.restore_from(str(path), map_location="cpu")
    assert third.tokenizers["translation_aed"].tokens == model.tokenizers["translation_aed"].tokens


@pytest.mark.parametrize("name", ["agg", "canary"])
def test_a_text_is_in_the_language_of_its_head(tokenizers, manifest, name):
    model = SortformerJointASR(cfg=settings(tokenizers, manifest, {"aed": name}))
    english, other = model.tokenizers["words_aed"], model.tokenizers["translation_aed"]
    assert english.decode_text(english.encode_text("red blue")) == "red blue"
    assert other.decode_text(other.encode_text("rojo azul")) == "rojo azul"
    assert english.count_unknown(english.encode_text("rojo")) > 0
    assert english.tokens == other.tokens
    heads = model.text_heads
    if name == "agg":
        assert heads["words_aed"].prompt_ids == (english.bos_id,)
    else:
        inner = english.tokenizer
        for head, task, language in (("words", "transcribe", "en"), ("translation", "translate", "es")):
            said = [english.tokens[i] for i in heads[f"{head}_aed"].prompt_ids]
            assert said == ["<|startoftranscript|>", "<|en|>", f"<|{task}|>", f"<|{language}|>", "<|nopnc|>"]
        assert (english.bos_id, english.eos_id, english.pad_id) == (inner.bos_id, inner.eos_id, inner.pad_id)


CANARY = {"format": "canary", "source_lang": "en", "target_lang": "es", "task": "asr", "pnc": "no"}


@pytest.mark.parametrize(
    "name, kind, prompt, message",
    [
        ("canary", "aed", {"format": "parrot"}, "`model.text.words_aed.prompt` must .* Unknown prompt formatter"),
        ("canary", "aed", {"source_lang": "en"}, "must have the `format`"),
        ("canary", "aed", {"format": "canary", "source_lang": "en"}, "prompt` must .*all of its parts"),
        ("canary", "aed", CANARY | {"target_lang": "xx"}, "tokens that the tokenizer has, .*xx"),
        ("canary", "aed", CANARY | {"mood": "good"}, "`mood` is no part of it; it has source_lang"),
        ("agg", "aed", CANARY, "tokens that the tokenizer has"),
        ("canary", "ctc", CANARY, "`prompt` is for the kind `aed`, but the kind is `ctc`"),
    ],
)
def test_a_prompt_that_cannot_be_written_is_named(tokenizers, manifest, name, kind, prompt, message):
    cfg = settings(tokenizers, manifest, {kind: name})
    cfg.text[f"words_{kind}"].prompt = prompt
    with pytest.raises(ConfigError, match=message):
        SortformerJointASR(cfg=cfg)


@pytest.mark.slow
def test_words_and_their_translation_are_learnt_with_the_same_speakers(tokenizers, manifest, sessions, tmp_path):
    torch.manual_seed(0)
    model = SortformerJointASR(cfg=settings(tokenizers, manifest, {"ctc_streams": "agg"}))
    train(model, STEPS)
    model.save_to(str(tmp_path / "joint.nemo"))
    model = SortformerJointASR.restore_from(str(tmp_path / "joint.nemo"), map_location="cpu").eval()
    audio = [samples for samples, _ in sessions]
    both = [
        model.transcribe_sessions(audio, sample_rate=16000, head=f"{name}_ctc_streams")
        for name in ("words", "translation")
    ]
    for (_, words), ours, theirs in zip(sessions, *both, strict=True):
        expected = {f"speaker_{k}": text for k, text in enumerate(joint_sessions.texts(words)) if text}
        assert ours.texts_by_speaker() == expected
        assert theirs.texts_by_speaker() == {name: spanish(text) for name, text in expected.items()}
        assert ours.diarization.segments == theirs.diarization.segments
