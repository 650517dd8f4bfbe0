"""Gate G0: the chunked recurrences against the token-by-token ones, on the backend at hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.evals.gates import FAIL, PASS, Gate, gate
from psann_jax.ops.ssd import ssd, ssd_sequential
from psann_jax.ops.wkv6 import wkv6, wkv6_sequential


def kernels(length: int = 1100, tolerance: float = 1e-4) -> Gate:
    """G0: the chunked WKV and SSD equal the token-by-token ones, gradients too, here and now.

    With a state before the first token, decays of every strength, and resets.

    Args:
      length: T, no multiple of a chunk, and more than is computed at once.
      tolerance: largest difference allowed, relative to the largest value.
    """
    found = {"wkv6": _wkv6_error(length), "ssd": _ssd_error(length)}
    worst = float(np.max(list(found.values())))  # which is nan where one is
    good = worst <= tolerance
    said = f"chunked and sequential recurrences differ by {worst:.1e} on {jax.default_backend()}"
    return gate("G0 kernels", PASS if good else FAIL, f"{said} (at most {tolerance:g})", **found)


def _wkv6_error(length: int) -> float:
    keys = jax.random.split(jax.random.key(0), 6)
    r, k, v = (jax.random.normal(key, (2, length, 2, 16)) for key in keys[:3])
    # From no decay at all to one that forgets within a token.
    log_decay = -jnp.exp(jax.random.uniform(keys[3], r.shape, minval=-8.0, maxval=3.0))
    u, state = jax.random.normal(keys[4], (2, 16)), jax.random.normal(keys[5], (2, 2, 16, 16))
    arrays = r, k, v, log_decay, u, state
    return _difference(wkv6, wkv6_sequential, _resets(length), *arrays)


def _ssd_error(length: int) -> float:
    keys = jax.random.split(jax.random.key(1), 6)
    x = jax.random.normal(keys[0], (2, length, 2, 16))
    dt = jax.random.uniform(keys[1], (2, length, 2), minval=1e-3, maxval=2.0)
    a = -jax.random.uniform(keys[2], (2,), minval=0.1, maxval=16.0)
    b, c = (jax.random.normal(key, (2, length, 1, 16)) for key in keys[3:5])
    state = jax.random.normal(keys[5], (2, 2, 16, 16))
    arrays = x, dt, a, b, c, jnp.ones((2,)), state
    return _difference(ssd, ssd_sequential, _resets(length), *arrays)


def _resets(length: int) -> jax.Array:
    """A few in each of two rows, one of them at the first token."""
    resets = jax.random.bernoulli(jax.random.key(2), 4 / length, (2, length))
    return resets.at[:, 0].set(jnp.array([False, True]))


def _difference(chunked: Any, sequential: Any, resets: jax.Array, *arrays: jax.Array) -> float:
    """The largest difference of outputs, states and gradients, relative to each one's largest."""

    def all_of(op):
        @jax.jit
        def run(arrays):
            y, vjp = jax.vjp(lambda *a: op(*a, resets), *arrays)
            return y, vjp(jax.tree.map(jnp.cos, y))

        return jax.tree.leaves(run(arrays))

    pairs = zip(all_of(chunked), all_of(sequential), strict=True)
    return float(np.max([jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)) for a, b in pairs]))
