# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Speaker tags around NeMo's tokenizers: round trips, numbers that stay, and whatever a model may give to decode."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.speaker_tokenizer import SpeakerTagError, SpeakerTokenizer, speaker_tag
from nemo_sortformer.data.text_tokenizer import train_text_tokenizer
from nemo_sortformer.functional.serialized import Turn

TEXTS = ["go to twenty five", "rubout g m e f", "stop", "enter nine"]
GERMAN = ["geh nach oben", "halt an", "zwei und drei"]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    module = pytest.importorskip("nemo.collections.common.tokenizers.sentencepiece_tokenizer")

    def make(texts=TEXTS, name="en", **options):
        folder = train_text_tokenizer(texts, tmp_path_factory.mktemp(name), **options)
        return module.SentencePieceTokenizer(str(folder / "tokenizer.model"))

    return make


@pytest.fixture(scope="module")
def english(sentencepiece):
    return SpeakerTokenizer(sentencepiece(), 4)


@pytest.fixture(scope="module")
def canary(sentencepiece, tmp_path_factory):
    module = pytest.importorskip("nemo.collections.common.tokenizers.canary_tokenizer")
    special = module.CanaryTokenizer.build_special_tokenizer(["en", "de"], tmp_path_factory.mktemp("spl"))
    return module.CanaryTokenizer({"spl_tokens": special, "en": sentencepiece(), "de": sentencepiece(GERMAN, "de")})


words = st.lists(st.sampled_from(" ".join(TEXTS).split()), min_size=1, max_size=5).map(" ".join)
turns = st.lists(st.builds(Turn, st.integers(0, 3), words), max_size=6)


@given(turns=turns)
def test_turns_come_back_also_two_of_one_speaker_in_a_row(english, turns):
    ids = english.encode(turns)
    assert english.decode(ids) == turns
    assert english.decode([english.bos_id, *ids, english.eos_id, english.pad_id, english.pad_id]) == turns
    assert all(0 <= index < english.vocab_size for index in ids)


@given(ids=st.lists(st.integers(-5, 200), max_size=40))
def test_any_numbers_at_all_decode_to_text_of_known_speakers(english, ids):
    for turn in english.decode(ids):
        assert 0 <= turn.speaker < 4
        assert turn.text == " ".join(turn.text.split()) != ""


def test_tags_and_missing_tokens_stand_behind_those_of_the_text(english):
    size = english.num_text_tokens
    assert english.speaker_ids == [size, size + 1, size + 2, size + 3]
    assert (english.bos_id, english.eos_id, english.pad_id) == (size + 4, size + 5, size + 6)
    assert english.vocab_size == size + 7 == len(english.tokens)
    assert english.tokens[size:] == [*map(speaker_tag, range(4)), "<bos>", "<eos>", "<pad>"]
    assert english.encode([Turn(2, "stop")]) == [size + 2, *english.tokenizer.text_to_ids("stop")]


def test_more_speakers_move_no_token_of_the_text(english):
    more = SpeakerTokenizer(english.tokenizer, 8)
    assert more.encode_text("go stop") == english.encode_text("go stop")
    assert more.speaker_ids[:4] == english.speaker_ids


def test_misplaced_and_unknown_tokens_are_left_out(english):
    go, tags = english.encode_text("go"), english.speaker_ids
    assert english.decode([*go, tags[1], *go]) == [Turn(0, "go"), Turn(1, "go")]
    assert english.decode([tags[1], tags[2], *go]) == [Turn(2, "go")]
    assert english.decode([tags[1], english.tokenizer.unk_id, *go, english.bos_id, 10_000, -1]) == [Turn(1, "go")]
    assert english.decode([tags[0], *go, english.eos_id, tags[1], *go]) == [Turn(0, "go")]
    assert english.decode([english.eos_id]) == english.decode([]) == []


def test_empty_and_untidy_text(english):
    assert english.encode_text("  ") == []
    assert english.decode_text([]) == ""
    assert english.decode_text(english.encode_text(" go \n  stop ")) == "go stop"


@pytest.mark.parametrize("text", ["go <spk0> stop", "<SPK12>", "a<spk3>b"])
def test_text_with_a_tag_is_refused(english, text):
    with pytest.raises(SpeakerTagError, match="must not hold `<(spk|SPK)"):
        english.encode_text(text)
    with pytest.raises(SpeakerTagError, match="stands for a token of its own"):
        english.encode([Turn(0, text)])


def test_a_vocabulary_with_tags_is_refused(letters):
    tagged = letters()
    tagged.vocab = [*tagged.vocab, "▁<spk7>"]
    with pytest.raises(SpeakerTagError, match="must not hold speaker tags, but it has `▁<spk7>`"):
        SpeakerTokenizer(tagged, 4)


def test_unknown_text_is_counted(english):
    assert english.count_unknown(english.encode_text("go")) == 0
    assert english.count_unknown(english.encode_text("go ж!")) >= 1


def test_speakers_without_a_tag_are_refused(english):
    with pytest.raises(ValueError, match=r"must be in \[0, 4\), but is 4"):
        english.encode([Turn(4, "go")])
    with pytest.raises(ValueError, match="`num_speakers` must be 1 or more, but is 0"):
        SpeakerTokenizer(english.tokenizer, 0)


def test_it_travels_to_worker_processes(english):
    copy = pickle.loads(pickle.dumps(english))
    assert copy.encode([Turn(1, "go to")]) == english.encode([Turn(1, "go to")])


# --- Other tokenizers of NeMo


def test_own_begin_end_and_padding_are_used_but_never_for_two_ends(letters):
    one = letters()
    one.bos_id, one.eos_id, one.pad_id = 3, 4, 4
    tokenizer = SpeakerTokenizer(one, 2)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (3, 4)
    assert tokenizer.pad_id == tokenizer.num_text_tokens + 2 == tokenizer.vocab_size - 1


def test_an_aggregate_tokenizer_takes_the_language_that_is_named(sentencepiece):
    module = pytest.importorskip("nemo.collections.common.tokenizers.aggregate_tokenizer")
    both = module.AggregateTokenizer({"en": sentencepiece(), "de": sentencepiece(GERMAN, "de")})
    german = SpeakerTokenizer(both, 3, language="de")
    turns = [Turn(0, "geh nach oben"), Turn(2, "halt an")]
    ids = german.encode(turns)
    assert german.decode(ids) == turns
    assert min(ids) >= both.token_id_offset["de"]
    assert german.count_unknown(german.encode_text("halt ж")) >= 1
    assert german.decode(german.encode([Turn(1, "halt ж")])) == [Turn(1, "halt")]
    for language in (None, "fr"):
        with pytest.raises(ValueError, match="one of `en`, `de`, but is"):
            SpeakerTokenizer(both, 3, language=language)


def test_canary_keeps_its_begin_end_and_padding(canary):
    tokenizer = SpeakerTokenizer(canary, 4, language="en")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (canary.bos_id, canary.eos_id, canary.pad_id)
    assert tokenizer.vocab_size == canary.vocab_size + 4
    turns = [Turn(0, "go to twenty five"), Turn(1, "stop")]
    ids = [canary.bos_id, *tokenizer.encode(turns), canary.eos_id, canary.pad_id]
    assert tokenizer.decode(ids) == turns
    prompt = [canary.special_tokens["<|en|>"], canary.special_tokens["<|pnc|>"]]
    assert tokenizer.decode([*prompt, *tokenizer.encode(turns)]) == turns
    with pytest.raises(SpeakerTagError, match=r"`<\|endoftext\|>`"):
        tokenizer.encode_text("stop <|endoftext|>")
