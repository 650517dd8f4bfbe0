"""Generation: one compiled call prefills a batch of prompts and decodes until all rows end.

Prompts of different lengths are padded on the left, so that the rows' next tokens share a
cache slot; positions and segments keep the padding out of every mixer. Lengths are rounded
up to 16, 32, 64, 96, 128, 192, 256, ..., so that few shapes are compiled. Prompts of more than
CHUNK tokens are read chunk by chunk; the first chunks of a short row are padding, which no state
notes.
"""

from collections.abc import Collection, Sequence
import functools
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from psann_jax.infer.sampling import Draw, Sampling, sample
from psann_jax.model import LM, LMState
from psann_jax.seq import Seq

MOST_NEW_TOKENS = 1 << 24  # a row
CHUNK = 512  # tokens of a row that are read at once
_SHORTEST = 16


def generate(
    model: LM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    eos_id: int | None = None,
    never: Collection[int] = (),
    n_tokens: int | None = None,
) -> list[list[int]]:
    """Continuations of `prompts`, as token ids.

    Args:
      prompts: token ids of each row, at least one each.
      max_new_tokens: most tokens a row gets.
      eos_id: a row ends before this token, which is not returned; None: none does.
      never: ids that are not drawn, as padding; eos_id is drawn all the same, which is also
        the padding in many vocabularies.
      n_tokens: ids from here on are not drawn: the tokenizer's vocabulary, where the model's
        is larger.

    Raises:
      ValueError: no prompt, an empty prompt, or max_new_tokens out of range.
    """
    if not prompts:
        return []
    if not all(map(len, prompts)):
        empty = [len(p) for p in prompts].index(0)
        raise ValueError(f"prompts[{empty}] has no tokens; begin it with BOS")
    if not 1 <= max_new_tokens <= MOST_NEW_TOKENS:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} must be at least 1, and at most {MOST_NEW_TOKENS}"
        )
    sampling = sampling or Sampling()
    tokens, lengths = _left_padded(prompts)
    out = _generate(
        model,
        tokens,
        lengths,
        jax.random.key(sampling.seed),
        jnp.int32(max_new_tokens),
        jnp.int32(-1 if eos_id is None else eos_id),
        _allowed(model.embed.table.shape[0], [i for i in never if i != eos_id], n_tokens),
        sampling.draw(),
        room=_rounded(max_new_tokens),
    )
    if not out.is_fully_addressable:  # the model is spread over several processes
        out = multihost_utils.process_allgather(out, tiled=True)
    return [_ended(row[:max_new_tokens], eos_id) for row in np.asarray(out).T.tolist()]


def decoding_model(model: LM) -> LM:
    """The model as decoding reads it: kernels in the activations' dtype, layers apart.

    Kernels and the embedding are cast before each use in training as well; what else has two
    axes, such as the taps of a convolution, is used in float32 there, and so it is here.
    """

    def cast(path: Any, a: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        return a.astype(model.dtype) if name.endswith(("/kernel", "/table")) else a

    model = jax.tree_util.tree_map_with_path(cast, model)
    model.stack = model.stack.unrolled()
    return model


def prefill(model: LM, tokens: jax.Array, lengths: jax.Array, state: LMState):
    """Reads left-padded prompts: logits [B, V] of each row's next token, and the state.

    Args:
      tokens: [B, P], each row's prompt at its right end. Above CHUNK, P is best a number of many
        divisors, as it is read in equal chunks.
      lengths: [B], how many tokens of each row are its prompt.
      state: `init_state(B, max_len)` of the model, max_len >= P.
    """
    place = jnp.arange(tokens.shape[1])[None] - (tokens.shape[1] - lengths)[:, None]  # [B, P]

    def read(state, chunk):
        tokens, place = chunk
        seq = Seq(jnp.maximum(place, 0).astype(jnp.int32), (place >= 0).astype(jnp.int32))
        x, state = model.features(tokens, seq, state)
        return state, x[:, -1:]

    if (chunks := _chunks(tokens.shape[1])) == 1:
        state, x = read(state, (tokens, place))
    else:  # what attention scores at once does not grow with the square of the prompt
        parts = (jnp.split(a, chunks, axis=1) for a in (tokens, place))
        state, every = jax.lax.scan(read, state, tuple(map(jnp.stack, parts)))
        x = every[-1]
    return model.logits(x)[:, 0], state


def _chunks(n: int) -> int:
    """How many equal chunks of CHUNK tokens at most n tokens are read in."""
    return next(chunks for chunks in range(-(-n // CHUNK), n + 1) if n % chunks == 0)


def _rounded(n: int) -> int:
    """The power of two that holds n, or three quarters of it where those do, from 96 on."""
    power = max(_SHORTEST, 1 << (n - 1).bit_length())
    return power * 3 // 4 if power > 64 and n <= power * 3 // 4 else power


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(p) for p in prompts], np.int32)
    tokens = np.zeros((len(prompts), _rounded(int(lengths.max()))), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[len(row) - len(prompt) :] = prompt
    return tokens, lengths


def _allowed(vocabulary: int, never: Sequence[int], n_tokens: int | None) -> np.ndarray:
    """Which ids may be drawn, [V] bool."""
    allowed = np.arange(vocabulary) < (vocabulary if n_tokens is None else n_tokens)
    allowed[list(never)] = False
    return allowed


def _ended(row: list[int], eos_id: int | None) -> list[int]:
    return row[: row.index(eos_id)] if eos_id in row else row


@functools.partial(jax.jit, static_argnames="room")
def _generate(model, tokens, lengths, key, limit, eos_id, allowed, how: Draw, *, room: int):
    """Tokens [N, B]; rows go on after their EOS until all have ended, so what follows is noise."""
    model = decoding_model(model)
    batch, width = tokens.shape
    logits, state = prefill(model, tokens, lengths, model.init_state(batch, width + room))
    seen = None
    if how.repetition_penalty is not None:
        seen = _seen(tokens, lengths, logits.shape[-1])
    out = jnp.zeros((room, batch), jnp.int32)

    def draw(logits, step, seen):
        logits = jnp.where(allowed, logits, -jnp.inf)
        token = sample(logits, how, jax.random.fold_in(key, step), seen)
        seen = None if seen is None else seen.at[jnp.arange(batch), token].set(True)
        return token, seen

    def body(carry):
        step, token, state, seen, done, out = carry
        out = out.at[step].set(token)
        done = done | (token == eos_id)
        logits, state = model(token[:, None], None, state)
        token, seen = draw(logits[:, 0], step + 1, seen)
        return step + 1, token, state, seen, done, out

    def more(carry):
        step, done = carry[0], carry[4]
        return (step < limit) & ~jnp.all(done)

    token, seen = draw(logits, jnp.int32(0), seen)
    start = (jnp.int32(0), token, state, seen, jnp.zeros((batch,), bool), out)
    return jax.lax.while_loop(more, body, start)[5]


def _seen(tokens, lengths, vocabulary: int) -> jax.Array:
    """Which tokens each prompt holds, [B, V] bool."""
    real = jnp.arange(tokens.shape[1])[None] >= (tokens.shape[1] - lengths)[:, None]
    rows = jnp.broadcast_to(jnp.arange(tokens.shape[0])[:, None], tokens.shape)
    return jnp.zeros((tokens.shape[0], vocabulary), bool).at[rows, tokens].max(real)
