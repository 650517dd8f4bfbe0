"""GPU-07 of the validation: what generation gives is what the model says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import validation_sampling as sampling
from validation_scale import Result, Scale, drawn_once, stirred, verdict

from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling
from psann_jax.model import LM

_PROMPTS = [[1, 5, 9], [2], list(range(10, 17))]
_NEW = 8
_TIMES = 256  # draws at once from a prompt
_NEARLY_ALL = 1 - 2**-24  # a top_p that keeps all that is ever drawn, and is one all the same


def generation(scale: Scale) -> Result:
    """Generation: the cache changes no token, top-k and top-p draw from their sets, EOS ends.

    k = 1 and a small p are greedy. With k = 3 and with p = 0.5, all that is drawn is in the set
    that the logits without a cache give, and all of that set is drawn.
    """
    wrong = [f"{name}: {fault}" for name in scale.bases for fault in _faults(scale, name)]
    said = "; ".join(wrong) or f"{len(scale.bases)} bases, prompts of 1 to 7 tokens"
    return verdict(not wrong, said)


def _faults(scale: Scale, name: str) -> list[str]:
    model, wrong = stirred(drawn_once(scale.base(name))), []
    generated = functools.partial(generate, model, _PROMPTS, max_new_tokens=_NEW)
    greedy = generated(sampling=Sampling(temperature=0.0))
    if greedy != _without_cache(model, _PROMPTS, _NEW):
        wrong.append("the cache changes tokens")
    if generated(sampling=Sampling(top_k=1)) != greedy:
        wrong.append("top_k=1 is not greedy")
    every = scale.vocabulary  # a top_k that keeps all, so that one program does for what follows
    if generated(sampling=Sampling(top_k=every, top_p=1e-6)) != greedy:
        wrong.append("top_p=1e-6 is not greedy")
    end = greedy[0][3]
    ended = generated(sampling=Sampling(temperature=0.0), eos_id=end)
    if ended != [row[: _until(row, end)] for row in greedy]:
        wrong.append("EOS does not end a row")
    drawn = generated(sampling=Sampling(temperature=2.0, top_k=every, seed=3))
    if drawn == greedy or any(not 0 <= t < scale.vocabulary for row in drawn for t in row):
        wrong.append("drawing is not drawing")
    return wrong + _faults_of_sets(model, every)


def _faults_of_sets(model: LM, every: int) -> list[str]:
    """What is wrong with the tokens that top-k and top-p draw after each prompt, by many draws."""
    wrong, told = set(), set()
    for prompt, logits in zip(_PROMPTS, _next_logits(model, _PROMPTS), strict=True):
        t = sampling.temperature(logits)
        ways = {  # both filters, so that one program does
            f"top_k={sampling.K}": (sampling.most_likely, (sampling.K, _NEARLY_ALL)),
            f"top_p={sampling.P}": (sampling.nucleus, (every, sampling.P)),
        }
        for way, (left, (top_k, top_p)) in ways.items():
            draws = Sampling(temperature=t, top_k=top_k, top_p=top_p)
            rows = generate(model, [prompt] * _TIMES, max_new_tokens=1, sampling=draws)
            drawn, kept = [row[0] for row in rows], left(logits / t)
            wrong |= {f"{way} {fault}" for fault in sampling.faults(kept, drawn)}
            told |= {way} if sampling.told(kept, _TIMES) else set()
    return [*sorted(wrong), *(f"no prompt tells what {way} draws" for way in ways.keys() - told)]


def _until(row: list[int], end: int) -> int:
    return row.index(end) if end in row else len(row)


def _without_cache(model: LM, prompts: list[list[int]], n: int) -> list[list[int]]:
    """Greedy continuations of n tokens, each from a pass over the whole of its row."""
    tokens, lengths = _padded(prompts, n)
    each = np.arange(len(prompts))
    for ends in lengths + np.arange(n)[:, None]:
        logits = np.asarray(_logits(model, jnp.asarray(tokens)))  # [B, T, V]
        tokens[each, ends] = logits[each, ends - 1].argmax(-1)
    return [row[length : length + n].tolist() for row, length in zip(tokens, lengths, strict=True)]


def _next_logits(model: LM, prompts: list[list[int]]) -> np.ndarray:
    """Of the token after each prompt, without a cache, [B, V]."""
    tokens, lengths = _padded(prompts, _NEW)  # the shape that is compiled already
    return np.asarray(_logits(model, jnp.asarray(tokens)))[np.arange(len(prompts)), lengths - 1]


def _padded(prompts: list[list[int]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts with room for n tokens, [B, T], and their lengths."""
    lengths = np.array([len(prompt) for prompt in prompts])
    tokens = np.zeros((len(prompts), max(lengths) + n), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt  # causal: what stands behind changes nothing
    return tokens, lengths


@jax.jit
def _logits(model: LM, tokens: jax.Array) -> jax.Array:
    return model(tokens)[0]
