# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Small SentencePiece tokenizers: no letter is lost, tiny texts are enough, and NeMo reads the folder."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_sortformer.data.manifest import ManifestError
from nemo_sortformer.data.speaker_tokenizer import SpeakerTagError
from nemo_sortformer.data.text_tokenizer import manifest_texts, train_text_tokenizer

sentencepiece = pytest.importorskip("sentencepiece")
KINDS = ["unigram", "bpe", "char", "word"]


def load(folder):
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(st.text("abé' ", min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=6))
@settings(max_examples=12)
def test_every_text_it_learned_from_comes_back(tmp_path_factory, kind, texts):
    folder = train_text_tokenizer(texts, tmp_path_factory.mktemp("tokenizer"), vocab_size=20, kind=kind)
    tokenizer = load(folder)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == " ".join(text.split())
        assert 0 not in tokenizer.encode(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", [1, 40, 5000])
def test_any_size_is_taken_whatever_the_text_can_fill(tmp_path, kind, vocab_size):
    texts = ["go", "stop", "a b c", "nine nine nine"] * 5
    tokenizer = load(train_text_tokenizer(texts, tmp_path, vocab_size=vocab_size, kind=kind))
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)
    if kind != "word":
        assert tokenizer.get_piece_size() <= max(vocab_size, 14)


def test_there_is_no_token_but_the_unknown_one_and_text(tmp_path):
    tokenizer = load(train_text_tokenizer(["go stop"], tmp_path))
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()) == (0, -1, -1, -1)
    lines = (tmp_path / "tokenizer.vocab").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == [tokenizer.id_to_piece(k) for k in range(len(lines))]


def test_the_lists_of_nemo_are_beside_it(tmp_path):
    module = pytest.importorskip("nemo.collections.common.tokenizers.sentencepiece_tokenizer")
    (tmp_path / "text").write_text("go stop go stop\n" * 5)
    module.create_spt_model(str(tmp_path / "text"), 12, -1, False, output_dir=str(tmp_path / "theirs"))
    folder = train_text_tokenizer(["go stop go stop"], tmp_path / "mine")
    for made in (tmp_path / "theirs", folder):
        assert (made / "vocab.txt").read_text(encoding="utf-8").splitlines() == nemo_vocabulary(load(made))
    assert module.SentencePieceTokenizer(str(folder / "tokenizer.model")).text_to_tokens("go") == ["▁go"]


def nemo_vocabulary(tokenizer):
    """What NeMo's `create_spt_model` writes: pieces without the unknown one, `##` before what continues a word."""
    pieces = [tokenizer.id_to_piece(index) for index in range(1, tokenizer.get_piece_size())]
    return [(piece[1:] or "▁") if piece.startswith("▁") else f"##{piece}" for piece in pieces]


def test_bad_text_is_refused(tmp_path):
    with pytest.raises(SpeakerTagError, match="`<spk1>`"):
        train_text_tokenizer(["go", "<spk1> stop"], tmp_path)
    with pytest.raises(ManifestError, match="there is none"):
        train_text_tokenizer([" "], tmp_path)
    with pytest.raises(ValueError, match="`kind` must be `unigram`"):
        train_text_tokenizer(["go"], tmp_path, kind="wordpiece")


def test_texts_of_a_manifest_are_those_of_its_lines_and_files(tmp_path):
    seglst = [
        {
            "session_id": "a",
            "speaker": "ann",
            "start_time": 0,
            "end_time": 1,
            "words": "good day",
            "translation": "tag",
        },
        {"session_id": "a", "speaker": "bob", "start_time": 0, "end_time": 1, "words": ""},
    ]
    (tmp_path / "a.json").write_text(json.dumps(seglst))
    (tmp_path / "b.ctm").write_text("b 1 0.0 0.5 hello 1.0 lex ann\n")
    lines = [
        {"audio_filepath": "a.wav", "seglst_filepath": "a.json", "split": "train"},
        {"audio_filepath": "a.wav", "seglst_filepath": "a.json", "offset": 1.0, "split": "train"},
        {"audio_filepath": "b.wav", "words_filepath": "b.ctm", "split": "train"},
        {"audio_filepath": "c.wav", "text": "stop", "translation": "halt", "split": "train", "source": "an4"},
        {"audio_filepath": "d.wav", "text": "other", "split": "test"},
        {"audio_filepath": "e.wav", "text": None, "split": "train"},
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert manifest_texts(path, split="train") == ["good day", "hello", "stop"]
    assert manifest_texts(path, sources=["an4"]) == ["stop"]
    assert manifest_texts(path, split="train", field="translation") == ["tag", "halt"]


def test_real_texts_of_a_closed_vocabulary(speech_data, tmp_path):
    texts = manifest_texts(speech_data / "pool" / "manifest.jsonl", split="train", sources=["an4"])
    assert len(texts) > 200
    tokenizer = load(train_text_tokenizer(texts, tmp_path, vocab_size=128))
    assert tokenizer.get_piece_size() == 128
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)
    pieces, words = (sum(map(len, rows)) for rows in (map(tokenizer.encode, texts), map(str.split, texts)))
    assert pieces <= 1.1 * words  # nearly all words are one token
