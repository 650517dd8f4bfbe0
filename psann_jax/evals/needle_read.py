"""Whether a model says the answers: prompts read in chunks, answers scored in one call.

Greedy decoding says an answer exactly when, at each of its tokens, the argmax given the prompt and
the right tokens before it is that token: up to the first miss both have read the same. So the
answers are read along with the prompts, and nothing is sampled.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from psann_jax import sharding
from psann_jax.evals.needle import Prompt

CHUNK = 512  # tokens of a row a call
_TOKENS_AT_ONCE = 65_536  # of all rows together, which bounds the caches of attention


def said_right(model: Any, prompts: Sequence[Prompt], chunk: int = CHUNK) -> list[np.ndarray]:
    """For each prompt whether the model says each token of its answer, [n] bool.

    Rows are read through the model's states, `chunk` tokens a call, so that what a recurrent model
    holds does not grow with the length. All calls of one length have one of three shapes.

    Args:
      model: with `features`, `logits` and `init_state`, as LM.
      prompts: of one length, one at least.
    """
    length, most = len(prompts[0].tokens), max(len(p.answer) for p in prompts)
    mesh = sharding.make_mesh(data=-1, fsdp=1)
    ways = sharding.batch_ways(mesh)
    at_once = min(len(prompts), max(1, _TOKENS_AT_ONCE // length))
    at_once = -(-at_once // ways) * ways
    tokens = np.zeros((-(-len(prompts) // at_once) * at_once, length + most), np.int32)
    for row, prompt in zip(tokens, prompts, strict=False):
        row[:length] = prompt.tokens
        row[length : length + len(prompt.answer)] = prompt.answer  # then padding, seen by none
    said = []
    with jax.set_mesh(mesh):
        for rows in np.split(tokens, len(tokens) // at_once):
            said.append(_argmax(model, rows, length, chunk, mesh))
    right = np.concatenate(said) == tokens[:, length:]  # [N, A]
    return [row[: len(p.answer)] for row, p in zip(right, prompts, strict=False)]


def _argmax(model: Any, rows: np.ndarray, length: int, chunk: int, mesh: Any) -> np.ndarray:
    """What the model says at each token after `length`, [B, T] -> [B, T - length]."""
    where, answer = sharding.batch_sharding(mesh), rows.shape[1] - length
    tokens = rows[:, :-1]
    # The last chunk holds the query and all that is scored; the odd one comes first.
    last = max(0, length - chunk)
    edges = [0, *range(last % chunk or chunk, last + 1, chunk)] if last else [0]
    state = _start(model, len(rows), length + answer)
    for begin, end in zip(edges, edges[1:], strict=False):
        state = _read(model, jax.device_put(tokens[:, begin:end], where), state)
    return np.asarray(_answer(model, jax.device_put(tokens[:, last:], where), state, answer))


@partial(jax.jit, static_argnums=(1, 2))
def _start(model: Any, batch: int, max_len: int) -> Any:
    return model.init_state(batch, max_len)


@jax.jit
def _read(model: Any, tokens: jax.Array, state: Any) -> Any:
    return model.features(tokens, None, state)[1]


@partial(jax.jit, static_argnums=3)
def _answer(model: Any, tokens: jax.Array, state: Any, n: int) -> jax.Array:
    """The likeliest token after each of the last n, [B, n]."""
    x, _ = model.features(tokens, None, state)
    return jnp.argmax(model.logits(x[:, -n:]), axis=-1)
