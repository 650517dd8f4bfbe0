"""GPU-03 and GPU-04 of the validation: how fast a step is, and what recomputing spares."""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools

import jax
from timing import take_turns, timed
from trainer import Trainer
from validation_scale import Result, Scale, drawn_once, one_device, verdict
from validation_training import prepared

from psann_jax.bases import Base
from psann_jax.compiling import jit
from psann_jax.run.dry_run import program_bytes
from psann_jax.seq import Batch
from psann_jax.train import step as train_steps
from psann_jax.train.feed import on_mesh

_TURNS = 5
# Of four steps. What is computed again is fused in another way, so that in bfloat16 other numbers
# are rounded: on a CPU losses part by 5e-5.
_LOSS_OFF = {"float32": 1e-4, "bfloat16": 2e-3}
Speeds = dict[str, float]  # tokens a second


def throughput(scale: Scale) -> Result:
    """Throughput: training at 0.05 to 0.8 of the forward speed, half of it left in large batches.

    By base and batch_tokens, of the forward pass to its loss and of the train step. A step does
    that pass and, backward, about twice its work: it has 0.2 to 0.55 of the speed on a CPU, and
    0.85 or more where the backward pass is missing; under 0.05 it does something else than compute.
    From the smallest batch to the largest a speed falls by half at most, and nothing compiles
    while it is timed.
    """
    numbers, wrong = {}, []
    for name in scale.in_full:
        batches = {
            tokens: scale.batches(1, rows=max(1, tokens // scale.length))[0]
            for tokens in scale.batch_tokens
        }
        rows, compiled = _speeds(scale.base(name, scale.speed_dtype), batches)
        numbers |= {f"{name} {tokens}": row for tokens, row in rows.items()}
        wrong += [f"{name} {fault}" for fault in faults(rows, compiled)]
    best = max(numbers, key=lambda key: numbers[key]["train_tokens_per_s"])
    said = f"training at best {numbers[best]['train_tokens_per_s']:,.0f} tokens/s ({best})"
    said += f"; wrong: {', '.join(wrong) or 'nothing'}"
    return verdict(not wrong, said, dtype=scale.speed_dtype, **numbers)


def faults(rows: dict[int, Speeds], compiled: int = 0) -> list[str]:
    """What is wrong with the speeds of a base by batch_tokens, and programs compiled meanwhile."""
    wrong = ["compiles while timed"] * (compiled > 0)
    for tokens, row in rows.items():
        share = row["train_tokens_per_s"] / row["forward_tokens_per_s"]
        if not 0.05 <= share <= 0.8:  # nan is not
            wrong.append(f"{tokens} trains at {share:.2f} of the forward's speed")
    for which in ("forward_tokens_per_s", "train_tokens_per_s"):
        small, large = rows[min(rows)][which], rows[max(rows)][which]
        if large < small / 2:
            wrong.append(f"{which} falls from {small:,.0f} to {large:,.0f}")
    return wrong


def _speeds(base: Base, batches: dict[int, Batch]) -> tuple[dict[int, Speeds], int]:
    """Of each batch, at the fastest of a few turns; and how many programs those compiled."""
    mesh, model, runs = one_device(), drawn_once(base), {}
    with jax.set_mesh(mesh):
        state, step = prepared(base, model, mesh)
        forward = jit(train_steps.eval_step)

        def train(batch: Batch) -> jax.Array:
            nonlocal state
            state, metrics = step(state, batch)
            return metrics["loss"]

        for tokens, batch in batches.items():
            whole = functools.partial(forward, model, on_mesh(batch, mesh))
            update = functools.partial(train, on_mesh(batch, mesh, 1))
            # As many tokens a turn for each: of long turns fewer go by undisturbed.
            window = max(batches) // tokens
            runs[tokens, "forward_tokens_per_s"] = timed(whole, window)
            runs[tokens, "train_tokens_per_s"] = timed(update, window)
        take_turns(runs, 1, warmup=0)  # compiles
        with _compilations() as programs:
            seconds = take_turns(runs, _TURNS, warmup=0)
    rows: dict[int, Speeds] = {tokens: {} for tokens in batches}
    for (tokens, which), taken in seconds.items():
        rows[tokens][which] = batches[tokens].inputs.size / min(taken)
    return rows, len(programs)


@contextlib.contextmanager
def _compilations() -> Iterator[list[str]]:
    """The programs compiled while it is open, one entry each."""
    seen = []

    def listen(event: str, seconds: float, **_) -> None:
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def checkpointing(scale: Scale) -> Result:
    """Activation checkpointing: the same loss, and less memory between the passes."""
    numbers, said, passed = {}, [], True
    for dtype in scale.training_dtypes:
        rows = _recomputed(scale, dtype)
        numbers |= {f"{remat} {dtype}": row for remat, row in rows.items()}
        none, dots, full = rows.values()
        off = max(abs(row["loss"] / none["loss"] - 1) for row in (dots, full))
        less = full["program_bytes"] < dots["program_bytes"] < none["program_bytes"]
        passed &= off < _LOSS_OFF[dtype] and less  # nan is not
        share, times = (full[of] / none[of] for of in ("program_bytes", "seconds"))
        said.append(f"full: {share:.0%} of the memory in {times:.2f} x the time, {dtype}")
    return verdict(passed, "; ".join(said), **numbers)


def _recomputed(scale: Scale, dtype: str) -> dict[str, dict[str, float]]:
    """Memory, seconds and loss of a train step by what it computes again, from none to full."""
    batch, deep = scale.batches(1)[0], {"n_layers": 2 * scale.sizes["n_layers"]}
    scale = dataclasses.replace(scale, sizes=scale.sizes | deep)
    trainers = {
        remat: Trainer(scale.base("waveresnet", dtype, remat=remat, scan_layers=True), batch)
        for remat in ("none", "dots", "full")
    }
    seconds = take_turns({remat: timed(t.step) for remat, t in trainers.items()}, 3, warmup=1)
    return {
        remat: {
            "program_bytes": program_bytes(trainer.program),
            "seconds": min(seconds[remat]),
            "loss": float(trainer.loss),
        }
        for remat, trainer in trainers.items()
    }
