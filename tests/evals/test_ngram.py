import numpy as np
import pytest

from psann_jax import data
from psann_jax.evals.ngram import KneserNey, ngram_bits_per_byte

BITS = 4
VOCAB = 12


def random_grams(n, order, seed=0):
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (n, order)) ** 2 // VOCAB
    return sum(tokens[:, i] << BITS * (order - 1 - i) for i in range(order))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_of_a_context_sum_to_one(order):
    model = KneserNey.fit(random_grams(300, order), order, BITS, VOCAB)
    contexts = random_grams(50, order, seed=1) >> BITS << BITS
    total = sum(model.probability(contexts + token) for token in range(VOCAB))
    np.testing.assert_allclose(total, 1, rtol=1e-12)


def test_unseen_context_falls_back_to_the_shorter_one():
    model = KneserNey.fit(np.array([0x12, 0x13, 0x22]), 2, BITS, VOCAB)
    assert model.probability(np.array([0x92])) == model.below.probability(np.array([0x2]))


def corpus(texts, tmp_path, **settings):
    config = {"cache_dir": str(tmp_path), "tokenizer": "char", "vocab_size": 300, "max_length": 32}
    return data.prepare(data.DataConfig(**config, **settings), texts)


def bits(corpus):
    val_bytes = corpus.meta.val.bytes
    return ngram_bits_per_byte(corpus.train, corpus.val, corpus.tokenizer.vocab_size, val_bytes)


def test_longer_contexts_predict_structured_text_better(tmp_path):
    found = bits(corpus([f"abcabdabe {i % 3} " * 20 for i in range(40)], tmp_path, val_split=0.1))
    assert found["unigram"] > found["bigram"] > found["trigram"] > 0


def test_uniform_tokens_cost_their_entropy(tmp_path):
    draw = np.random.default_rng(0).integers(0, 16, (60, 400))
    texts = ["".join(chr(ord("a") + i) for i in row) for row in draw]
    found = bits(corpus(texts, tmp_path, val_split=0.2))
    assert found["unigram"] == pytest.approx(4, abs=0.1)  # 4 bits a letter, and the eos


def test_contexts_end_at_documents(tmp_path):
    packed = bits(corpus(["xy"] * 200, tmp_path, val_split=0.1))
    alone = bits(corpus(["xy"] * 200, tmp_path, val_split=0.1, pack_sequences=False))
    # Only rows that end inside a document differ: 1 in 32 tokens.
    assert packed["trigram"] == pytest.approx(alone["trigram"], rel=0.1)


def test_vocabulary_too_large_for_three_in_a_key_is_named():
    with pytest.raises(ValueError, match="vocab_size=4194304 must be below"):
        ngram_bits_per_byte(None, None, 1 << 22, 1)
