"""Validation gates: what a model must show before its training is worth going on with.

G0 the chunked recurrences are right on this backend; G1 the forward pass is causal and the same in
all its forms; G2 a fresh model knows nothing; G3 training learns; G3.5 the states tell texts
apart; G4 no branch starves. G0 is in gates_kernels, G3 and G4, of a run's metrics, in gates_run.
Source: GroundThink V4, with thresholds that a vocabulary of any size can meet.
"""

from collections.abc import Mapping
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.model import LM, LMState

_LEAST_VARIANCE = 1e-6  # of the numbers of a state; below it a layer remembers nothing
PASS, WARN, FAIL, SKIPPED = "pass", "warn", "fail", "skipped"


@dataclasses.dataclass(frozen=True)
class Gate:
    """What one gate found."""

    name: str
    status: str  # pass, warn, fail or skipped
    said: str  # the figures in a line, with what they had to be
    figures: Mapping[str, float]


def gate(name: str, status: str, said: str, **figures: float) -> Gate:
    """A Gate of these figures."""
    return Gate(name, status, said, {k: float(v) for k, v in figures.items()})


def forward(model: LM, tokens: np.ndarray) -> Gate:
    """G1: logits are finite and [B, T, V]; later tokens move none; token by token gives the same.

    Args:
      tokens: [B, T], T >= 4.
    """
    limit = 1e-3 if model.dtype == jnp.float32 else 0.1
    logits = np.asarray(_logits(model, tokens))
    wanted = (*tokens.shape, model.embed.table.shape[0])
    name = "G1 forward"
    if logits.shape != wanted or not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).sum())
        said = f"logits {list(logits.shape)}, {bad} of them not finite; wanted {list(wanted)}"
        return gate(name, FAIL, said, not_finite=bad)
    scale, changed, at = max(float(logits.std()), 1e-6), tokens.copy(), tokens.shape[1] // 2
    changed[:, at] = (changed[:, at] + 1) % wanted[-1]
    moved = np.abs(np.asarray(_logits(model, changed)) - logits).max(axis=(0, 2)) / scale
    leak, apart = float(moved[:at].max()), _stepwise(model, tokens, logits) / scale
    own = float(moved[at])
    good = leak <= limit / 10 and apart <= limit and own > 0
    said = (
        f"finite, {list(wanted)}; a later token moves earlier logits by {leak:.1e} standard "
        f"deviations (at most {limit / 10:g}), token by token they differ by {apart:.1e} (at most "
        f"{limit:g}), and a token moves its own by {own:.1e} (more than 0)"
    )
    return gate(name, PASS if good else FAIL, said, leak=leak, stepwise=apart, own=own)


@jax.jit
def _logits(model: LM, tokens: jax.Array) -> jax.Array:
    return model(tokens)[0]


@jax.jit
def _extended(model: LM, tokens: jax.Array, states: LMState):
    return model(tokens, None, states)


def _stepwise(model: LM, tokens: np.ndarray, logits: np.ndarray) -> float:
    """How far the logits of a prefill and single steps are from those of the whole row."""
    length = tokens.shape[1]
    state, parts, first = model.init_state(len(tokens), length), [], length // 2
    for start, end in ((0, first), *((t, t + 1) for t in range(first, length))):
        part, state = _extended(model, tokens[:, start:end], state)
        parts.append(part)
    return float(np.abs(np.concatenate(parts, axis=1) - logits).max())


def entropy(fresh: LM, tokens: np.ndarray, targets: np.ndarray) -> Gate:
    """G2: a model before training is nearly even over the vocabulary, and no better than that."""
    even = math.log(fresh.embed.table.shape[0])
    log_p = jax.nn.log_softmax(_logits(fresh, tokens), axis=-1)
    h = float(-jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1)))
    loss = float(-jnp.mean(jnp.take_along_axis(log_p, targets[..., None], axis=-1)))
    share, off = h / even, abs(loss - even)
    good = share >= 0.9 and off <= 0.1
    status = FAIL if not share >= 0.5 or not math.isfinite(loss) else PASS if good else WARN
    said = (
        f"entropy {h:.2f} nats, {share:.2f} of ln V (at least 0.9, fails below 0.5); "
        f"loss {loss:.2f}, off ln V by {off:.2f} (at most 0.1)"
    )
    return gate("G2 fresh model", status, said, entropy=h, share=share, loss=loss)


def states(model: LM, tokens: np.ndarray) -> Gate:
    """G3.5: the recurrent states differ between two texts and between two places of one.

    Looks at the true states, S of RWKV-6 and h of Mamba-2, after half and all of tokens [2, T];
    for recurrent bases.
    """
    name, half = "G3.5 states", tokens.shape[1] // 2
    _, middle = _extended(model, tokens[:, :half], model.init_state(2, tokens.shape[1]))
    _, end = _extended(model, tokens[:, half:], middle)
    pairs = list(zip(*map(_matrices, (middle, end)), strict=True))
    if not pairs:
        return gate(name, SKIPPED, "no layer carries a matrix from token to token")
    # nan where one is, as Python's max is not
    texts = float(np.max([_cosine(e[0], e[1]) for _, e in pairs]))
    places = float(np.max([_cosine(m[row], e[row]) for m, e in pairs for row in (0, 1)]))
    variance = float(np.min([e.var() for _, e in pairs]))
    worst = float(np.max([texts, places]))
    alive = math.isfinite(worst) and variance > _LEAST_VARIANCE
    status = FAIL if not alive or worst > 0.99 else WARN if worst >= 0.95 else PASS
    said = (
        f"cosine of states at most {texts:.3f} between texts, {places:.3f} between places "
        f"(below 0.95, fails above 0.99); least variance {variance:.1e} "
        f"(above {_LEAST_VARIANCE:g})"
    )
    return gate(name, status, said, texts=texts, places=places, variance=variance)


def _matrices(state: LMState) -> list[np.ndarray]:
    """The recurrent matrices [B, H, K, V] of each layer as [B, H K V]; not the carried inputs."""
    leaves = (np.asarray(a, np.float64) for a in jax.tree.leaves(state.layers))
    return [a.reshape(len(a), -1) for a in leaves if a.ndim == 4]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return abs(float(a @ b)) / size if size else 1.0
