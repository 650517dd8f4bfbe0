"""The parts of a train step, each jitted alone, and the operations of a traced step."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
import tempfile
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from psann_jax.bases import Base
from psann_jax.ops.cross_entropy import linear_cross_entropy
from psann_jax.seq import Batch, Seq

Part = tuple[int, Callable[[], Any]]  # how often a step has it, and one run of it


def parts(base: Base, model: Any, batch: Batch, optimizer) -> dict[str, Part]:
    """Forward and backward of every sublayer and of the loss, and the optimizer's update."""
    rows = jax.tree.map(lambda a: a[0], batch)
    seq = Seq(rows.positions, rows.segments)
    shape = (*rows.inputs.shape, base.d_model)
    x, g = jax.random.normal(jax.random.key(0), (2, *shape), base.dtype)
    pattern = base.pattern()
    repeats = base.n_layers // len(pattern)
    found: dict[str, Part] = {}
    for i, make in enumerate(m for block in pattern for m in block):
        layer = make(base.d_model, rngs=nnx.Rngs(0))
        name = f"{type(layer.mixer).__name__.lower()} {i}"
        found[name] = repeats, partial(_through(layer, seq), layer, x, g)
    head = model.head.kernel[...] + 0  # a copy: the step donates its model
    loss = jax.jit(jax.value_and_grad(linear_cross_entropy, argnums=(0, 1)))
    found["loss"] = 1, partial(loss, x, head, rows.targets, rows.weights)
    found["embedding"] = 1, partial(_lookup, head.T + 0, rows.inputs, g)
    found["optimizer"] = 1, _updates(optimizer, model)
    return found


def _through(layer, seq: Seq):
    @jax.jit
    def run(layer, x, g):
        out, pull = jax.vjp(lambda layer, x: layer(x, seq)[0], layer, x)
        return out, pull(g)

    return run


@jax.jit
def _lookup(table, tokens, g):
    out, pull = jax.vjp(lambda table: table[tokens], table)
    return out, pull(g.astype(out.dtype))


def _updates(optimizer, model) -> Callable[[], Any]:
    @partial(jax.jit, donate_argnums=(0, 1))
    def update(model, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, model)
        return optax.apply_updates(model, updates), opt_state

    grads = jax.tree.map(jnp.ones_like, model)
    held = jax.tree.map(jnp.copy, model), optimizer.init(model)

    def run():
        nonlocal held
        held = update(*held, grads)
        return held

    return run


def traced(step, state, batch: Batch, runs: int, rows: int = 40) -> dict[str, dict[str, float]]:
    """Seconds and calls a step of the slowest XLA operations, from jax's profiler.

    Operations run side by side, so the seconds add up to more than the step takes.
    """
    state, _ = jax.block_until_ready(step(state, batch))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(runs):
                state, _ = step(state, batch)
            jax.block_until_ready(state)
        file = next(Path(folder).rglob("*.xplane.pb"))
        total, count = _by_operation(jax.profiler.ProfileData.from_file(str(file)))
    return {
        name: {"seconds": seconds / runs, "calls": count[name] / runs}
        for name, seconds in total.most_common(rows)
    }


def _by_operation(data) -> tuple[Counter, Counter]:
    total, count = Counter(), Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if any(name == "hlo_op" for name, _ in event.stats):
                    total[event.name] += event.duration_ns * 1e-9
                    count[event.name] += 1
    return total, count
