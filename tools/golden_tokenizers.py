"""Tokenizer states that psannlm saved, and its ids of some texts: tests/golden/tokenizers.

Runs in the peer's environment (see peer.py): its python tools/golden_tokenizers.py FOLDER.
Writes texts.json, and for every case CASE.json: the state (a sentencepiece model in it is
CASE.model.xz instead); vocab_size; bos and eos, with which psannlm begins and ends a text; ids of
every text, without specials, and decoded, psannlm's own text of them; long, the number and the
CRC-32 of the ids (as little-endian int32) of LONG. The library fits its WordPiece model a little
differently every time.
"""

from collections.abc import Iterator
from importlib.metadata import version
import io
import json
import logging
import lzma
from pathlib import Path
import sys
import tempfile
import zlib

import numpy as np
from psannlm.lm.data.tokenizer import Tokenizer, TokenizerConfig
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and it doesn't mind.\nA new line.",
    "sine waves (of a kind) are waves: 3.14, 42% and x/y.",
    "h\u00e9llo \u4f60\u597d  two spaces\tand a tab",
    "</s> is spelled here, [BOS] there",
    "jumping foxes jumped quickly over sine-activated dogs",
] * 4
TEXTS = [
    "",
    " ",
    "the quick brown fox",
    "  the  lazy\n\n dog \t",
    "line one\nline two\r\n",
    "h\u00e9llo \u4f60\u597d, na\u00efve \u2603 \U0001f600 \u0416",
    "he\u0301llo \ufb01ne \uff46ull \u00bd",
    "</s>",
    "a </s> b <s> <pad><unk> c",
    "[PAD] [BOS]the[EOS] [UNK] fox [SEP]",
    "<|endoftext|>the dog<|endoftext|>",
    "EOT the BEG NUL WUT fox EOT",
    "\u2581the\u2581dog \u2585 \0 \u200b \ufeffx",
    'say "hi!" # $5, it doesn\'t (mind) x/y 3.14%',
    "unquestionably jumpy foxing",
    "\u00e9" * 9 + "dogfox" * 9,
]
LONG = "the dog " * 1500
WORDS = ["the", "quick", "brown", "fox", "dog", "a", "line"]


def main(folder: Path) -> None:
    logging.disable(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "texts.json", TEXTS)
    with tempfile.TemporaryDirectory() as scratch:
        for name, options in cases(Path(scratch)):
            tokenizer = Tokenizer(TokenizerConfig(**options))
            tokenizer.fit(CORPUS)
            write(folder / f"{name}.json", record(tokenizer, folder / f"{name}.model.xz"))


def write(path: Path, content) -> None:
    path.write_text(json.dumps(content, ensure_ascii=True) + "\n")


def record(tokenizer: Tokenizer, model: Path) -> dict:
    state = tokenizer.to_state()
    again = Tokenizer.from_state(state)
    ids = [again.encode(text, add_specials=False) for text in TEXTS]
    long = np.array(again.encode(LONG, add_specials=False), "<i4")
    begun_and_ended = again.encode("", add_specials=True)
    if state["backend"] == "sentencepiece":
        model.write_bytes(lzma.compress(state.pop("model")))
    return {
        "psannlm": version("psannlm"),
        "state": state,
        "vocab_size": again.vocab_size,
        "bos": begun_and_ended[0],
        "eos": begun_and_ended[-1],
        "ids": ids,
        "long": [len(long), zlib.crc32(long.tobytes())],
        "decoded": [again.decode(row) for row in ids],
    }


def cases(scratch: Path) -> Iterator[tuple[str, dict]]:
    """Names, and what psannlm is told."""
    yield "simple", {"backend": "simple"}
    yield "sentencepiece", {"backend": "sentencepiece", "vocab_size": 120}
    for name, options in sentencepiece_models().items():
        path = scratch / f"{name}.model"
        path.write_bytes(fitted_sentencepiece(options))
        yield f"sentencepiece_{name}", {"backend": "sentencepiece", "model_path": str(path)}
    for passthrough in (False, True):
        end = "_passthrough" if passthrough else ""
        options = {"backend": "tokenizers", "hf_passthrough_ids": passthrough, "vocab_size": 150}
        yield f"tokenizers{end}", options
        for name, (model, special_map) in json_models().items():
            path, map_path = scratch / f"{name}.json", scratch / f"{name}.map.json"
            model.save(str(path))
            options = options | {"model_path": str(path), "special_tokens_map_path": None}
            if special_map:
                map_path.write_text(json.dumps(special_map))
                options["special_tokens_map_path"] = str(map_path)
            yield f"tokenizers_{name}{end}", options


def sentencepiece_models() -> dict[str, dict]:
    """Models with the library's specials, with others, with bytes, and one that keeps all text."""
    identity = {"normalization_rule_name": "identity"}
    keep = {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "byte_fallback": True}
    swapped = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    return {
        "default_ids": identity | {"model_type": "bpe"},
        "bytes": identity | {"byte_fallback": True, "user_defined_symbols": ["<sep>"]},
        "swapped_ids": identity | swapped,
        "no_bos_eos": identity | {"bos_id": -1, "eos_id": -1},
        "exact": identity | keep | {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
    }


def fitted_sentencepiece(options: dict) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text.replace("\n", " ") for text in CORPUS),
        model_writer=model,
        vocab_size=340 if "byte_fallback" in options else 90,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def json_models() -> dict[str, tuple[tokenizers.Tokenizer, dict | None]]:
    """Foreign vocabularies, and the special map that goes with each."""
    late = {"[UNK]": 7, "[PAD]": 8, "<s>": 9, "</s>": 10}
    odd = {"EOT": 7, "BEG": 8, "NUL": 9, "WUT": 10}
    odd_map = {"eos_token": "EOT", "bos_token": {"content": "BEG"}}
    odd_map |= {"pad_token": "NUL", "unk_token": "WUT"}
    template = byte_level()
    template.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    template.enable_truncation(40)
    return {
        "late_specials": (whole_words(late, ["<s>", "</s>", "[PAD]"], "[UNK]"), None),
        "special_map": (whole_words(odd, ["EOT"], "WUT"), odd_map),
        "without_map": (whole_words(odd, ["EOT"], "WUT"), None),
        "byte_level": (byte_level(), None),
        "template": (template, {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}),
        "word_piece": (word_piece(), None),
    }


def whole_words(specials: dict[str, int], added: list[str], unk: str) -> tokenizers.Tokenizer:
    vocab = {word: i for i, word in enumerate(WORDS)} | specials
    model = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=unk))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.add_special_tokens(added)
    return model


def byte_level() -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": ["<|endoftext|>"], "initial_alphabet": alphabet}
    model.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False, **options)
    )
    return model


def word_piece() -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    options = {"special_tokens": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]}
    model.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=120, show_progress=False, **options)
    )
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1]))
