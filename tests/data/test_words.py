"""Pieces back to text: marks first, then spaces where print has them."""

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from psann_jax.data.words import Words


def words(model, cutter=None):
    tokenizer = tokenizers.Tokenizer(model)
    if cutter is not None:
        tokenizer.pre_tokenizer = cutter
    return Words(tokenizer)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([], ""),
        (["", ""], ""),
        (["one", "two"], "one two"),
        (["one", ",", "two", "!"], "one, two!"),
        (["it", "'", "s", "(", "very", ")", "well", "-", "known"], "it's (very) well-known"),
        (["<", "s", ">"], "< s >"),
        (["[", "EOS", "]"], "[ EOS ]"),
        ([".", ".", "..."], ". . ..."),  # together they would be one piece
    ],
)
def test_punctuation_stands_as_in_print(pieces, text):
    assert words(models.BPE(), pre_tokenizers.Whitespace()).join(pieces) == text


def test_spaces_stay_where_the_cutter_would_not_cut():
    assert words(models.BPE(), pre_tokenizers.WhitespaceSplit()).join(["a", "."]) == "a ."
    assert words(models.BPE()).join(["a", "."]) == "a ."


def test_prefix_marks_the_inner_pieces_of_a_word():
    model = models.WordPiece({"[UNK]": 0}, unk_token="[UNK]", continuing_subword_prefix="##")
    joined = words(model, pre_tokenizers.BertPreTokenizer()).join(["jump", "##ing", ".", "##s"])
    assert joined == "jumping.s"


def test_suffix_marks_the_last_piece_of_a_word():
    model = models.BPE(end_of_word_suffix="</w>")
    pieces = ["jump", "ing</w>", "fox</w>", "\ufffd", "es</w>"]
    assert words(model, pre_tokenizers.Whitespace()).join(pieces) == "jumping fox \ufffdes"
