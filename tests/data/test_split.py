import numpy as np
import pytest

from psann_jax.data.split import tail_cut, validation_documents

LENGTHS = np.random.default_rng(0).integers(1, 10_000, 1000).tolist()


@pytest.mark.parametrize(
    ("n", "share", "expected"),
    [(1000, 0.01, 10), (1000, 0.5, 500), (10, 0.01, 1), (2, 0.5, 1), (1, 0.5, 0), (10, 0.0, 0)],
)
def test_count_is_the_share_but_leaves_both_parts_something(n, share, expected):
    assert validation_documents(LENGTHS[:n], share, 0).sum() == expected


def test_one_document_from_each_stratum_of_length():
    held_out = validation_documents(LENGTHS, 0.1, 3)
    ranks = np.argsort(np.argsort(LENGTHS, kind="stable"), kind="stable")
    assert sorted(ranks[held_out] // 10) == list(range(100))


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_few_documents_of_very_different_lengths_hold_out_little(n, seed):
    """Never the one that is most of the text."""
    lengths = np.random.default_rng(seed).lognormal(10, 2, n).astype(int) + 1
    lengths[0] = 100 * lengths.sum()
    held_out = validation_documents(lengths, 0.01, seed)
    assert held_out.sum() == 1 and not held_out[0]
    assert validation_documents([1000] * n, 0.01, seed).sum() == 1  # nothing is shorter there


def test_same_seed_same_split():
    assert np.array_equal(*(validation_documents(LENGTHS, 0.1, 7) for _ in range(2)))


def test_other_seed_other_split():
    first, second = (validation_documents(LENGTHS, 0.1, seed) for seed in (7, 8))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("characters", "share", "expected"),
    [
        ([1_115_394], 0.1, (0, 1_003_854)),
        ([10, 10], 0.5, (1, 0)),
        ([10, 10], 0.25, (1, 5)),
        ([10, 10, 3], 0.1, (2, 0)),
        ([5], 1e-18, (1, 0)),
        ([1], 0.5, (1, 0)),
    ],
)
def test_tail_begins_after_the_share_for_training(characters, share, expected):
    assert tail_cut(characters, share) == expected
