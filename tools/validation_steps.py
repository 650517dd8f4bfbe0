"""The steps of the validation battery: each measures, and says by which rule it passed."""

from collections.abc import Callable
import dataclasses
import functools
import math
from pathlib import Path
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from trainer import fresh_model, packed, program_bytes

from psann_jax import bases, sharding
from psann_jax.bases import Base
from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling
from psann_jax.model import LM, trainable, with_trained
from psann_jax.seq import Batch
from psann_jax.train import step as train_steps
from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.feed import on_mesh
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import TrainState, init_state

Result = dict[str, Any]
BASES = ("waveresnet", "respsann", "sgrpsann", "geosparse", "transformer")


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of the models and batches of a scale."""

    base: dict[str, int]
    rows: int
    length: int
    batch_tokens: tuple[int, ...]  # of the throughput
    throughput: dict[str, int]  # the model of it
    steps: int = 5
    dtypes: tuple[str, ...] = ("bfloat16", "float16")


_TINY = {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 2, "d_mlp": 64}
_CPU = {"vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 4, "d_mlp": 256}
_FULL = {"vocab_size": 32_768, "d_model": 512, "n_layers": 8, "n_heads": 8, "d_mlp": 2048}
SCALES = {
    "tiny": Scale(_TINY, 8, 32, (256,), _TINY, steps=3),
    "cpu": Scale(_CPU, 8, 128, (1024, 2048, 4096), _CPU),
    "accelerator": Scale(_FULL, 32, 1024, (65_536, 131_072, 262_144), _FULL, steps=10),
}


def of(name: str, scale: Scale, dtype: str = "float32", **fields: Any) -> Base:
    return bases.get(name)(**scale.base, dtype=dtype, **fields)


def batches(scale: Scale, vocabulary: int, n: int) -> list[Batch]:
    """n different batches [B, T], whose targets are the inputs of the next place."""
    generator = np.random.default_rng(0)
    shape = (n, scale.rows, scale.length + 1)
    # Few words of uneven frequency, so that there is something to learn in a few steps.
    tokens = generator.zipf(1.5, shape) % vocabulary
    return [packed(rows.astype(np.int32)) for rows in tokens]


def trained(base: Base, scale: Scale, mesh: jax.sharding.Mesh, data: list[Batch]):
    """(losses, state) after a step of each batch, from the same weights whatever the mesh."""
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3), 1000)
    with jax.set_mesh(mesh):
        state, where = init_state(lambda r: LM(base, rngs=r), optimizer, mesh, seed=0)
        step = train_steps.jit_train_step(optimizer, where)
        losses = []
        for batch in data:
            state, metrics = step(state, on_mesh(batch, mesh, 1))
            losses.append(float(metrics["loss"]))
    return losses, state


def one_device() -> jax.sharding.Mesh:
    return sharding.make_mesh(devices=jax.devices()[:1])


def verdict(passed: bool, said: str, **numbers: Any) -> Result:
    return {"passed": bool(passed), "said": said, "numbers": numbers}


def gpu_01(scale_name: str) -> Result:
    """Forward and backward: a fresh model near ln V, every gradient finite and not all zero."""
    scale, numbers, bad = SCALES[scale_name], {}, []
    data = batches(scale, scale.base["vocab_size"], 1)[0]
    for name in BASES:
        model = fresh_model(of(name, scale))
        batch = jax.tree.map(jnp.asarray, data)
        grad = jax.jit(
            jax.value_and_grad(
                lambda w, m, b: train_steps.loss_fn(with_trained(m, w), b) / b.weights.sum()
            )
        )
        loss, grads = grad(trainable(model), model, batch)
        leaves = [np.asarray(g, np.float32) for g in jax.tree.leaves(grads)]
        finite = all(np.isfinite(g).all() for g in leaves)
        share = np.mean([bool(np.any(g)) for g in leaves])
        off = float(loss) - math.log(scale.base["vocab_size"])
        numbers[name] = {"loss": float(loss), "off_ln_v": off, "gradients_there": float(share)}
        if not (finite and share == 1 and abs(off) < 1):
            bad.append(name)
    worst = max(abs(n["off_ln_v"]) for n in numbers.values())
    return verdict(not bad, f"loss within {worst:.2f} of ln V; bad: {bad or 'none'}", **numbers)


def gpu_02(scale_name: str) -> Result:
    """Half precision: losses of bf16 and fp16 training follow float32's within 2 %."""
    scale = SCALES[scale_name]
    data, numbers = batches(scale, scale.base["vocab_size"], scale.steps), {}
    for name in BASES:
        losses = {
            dtype: trained(of(name, scale, dtype), scale, one_device(), data)[0]
            for dtype in ("float32", *scale.dtypes)
        }
        numbers[name] = {
            dtype: float(np.max(np.abs(np.divide(losses[dtype], losses["float32"]) - 1)))
            for dtype in scale.dtypes
        }
    worst = {d: max(n[d] for n in numbers.values()) for d in scale.dtypes}
    said = ", ".join(f"{d} off by at most {w:.2%}" for d, w in worst.items())
    good = all(w < 0.02 for w in worst.values())  # nan is not
    return verdict(good, f"{said}, over {scale.steps} steps", **numbers)


def gpu_03(scale_name: str) -> Result:
    """Throughput of the forward pass and of the train step, by base and batch_tokens."""
    scale, numbers = SCALES[scale_name], {}
    dtype = "float32" if scale_name != "accelerator" else "bfloat16"
    for name in BASES:
        base = bases.get(name)(**scale.throughput, dtype=dtype)
        for tokens in scale.batch_tokens:
            rows = max(1, tokens // scale.length)
            sized = dataclasses.replace(scale, rows=rows)
            batch = batches(sized, base.vocab_size or 1, 1)[0]
            numbers[f"{name} {tokens}"] = {
                "forward_tokens_per_s": _forward_speed(base, batch),
                "train_tokens_per_s": _train_speed(base, batch),
            }
    speeds = [s for row in numbers.values() for s in row.values()]
    best = max(numbers, key=lambda key: numbers[key]["train_tokens_per_s"])
    said = f"training at best {numbers[best]['train_tokens_per_s']:,.0f} tokens/s ({best})"
    return verdict(all(math.isfinite(s) and s > 0 for s in speeds), said, dtype=dtype, **numbers)


def _forward_speed(base: Base, batch: Batch) -> float:
    model, tokens = fresh_model(base), jnp.asarray(batch.inputs)
    logits = jax.jit(lambda model, tokens: model(tokens)[0].max())
    return tokens.size / _median(lambda: logits(model, tokens))


def _train_speed(base: Base, batch: Batch) -> float:
    from trainer import Trainer

    trainer = Trainer(base, batch)
    return trainer.tokens / _median(trainer.step)


def _median(run: Callable[[], jax.Array], n: int = 5) -> float:
    seconds = []
    for _ in range(n + 1):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[n // 2]  # the first one compiles, or warms up


def gpu_04(scale_name: str) -> Result:
    """Activation checkpointing: the same loss, and less memory between the passes."""
    scale, numbers = SCALES[scale_name], {}
    data = batches(scale, scale.base["vocab_size"], 1)[0]
    deep = dataclasses.replace(scale, base=scale.base | {"n_layers": 2 * scale.base["n_layers"]})
    from trainer import Trainer

    for remat in ("none", "dots", "full"):
        trainer = Trainer(of("waveresnet", deep, remat=remat, scan_layers=True), data)
        seconds = _median(trainer.step, 3)
        numbers[remat] = {
            "program_bytes": program_bytes(trainer.program),
            "seconds": seconds,
            "loss": float(trainer.loss),
        }
    size = {name: row["program_bytes"] for name, row in numbers.items()}
    losses = [row["loss"] for row in numbers.values()]
    good = size["full"] < size["dots"] < size["none"] and np.ptp(losses) < 1e-4 * abs(losses[0])
    share, times = (
        size["full"] / size["none"],
        numbers["full"]["seconds"] / numbers["none"]["seconds"],
    )
    return verdict(good, f"full: {share:.0%} of the memory in {times:.2f} x the time", **numbers)


def _parity(scale_name: str, sizes: tuple[int, int, int]) -> Result:
    """Losses and weights on a mesh beside those of one device, over several steps."""
    scale, numbers, bad = SCALES[scale_name], {}, []
    data = batches(scale, scale.base["vocab_size"], scale.steps)
    for name in BASES:
        alone, one = trained(of(name, scale), scale, one_device(), data)
        mesh = sharding.make_mesh(*sizes)
        spread, many = trained(of(name, scale), scale, mesh, data)
        pairs = zip(*(jax.tree.leaves(trainable(s.model)) for s in (one, many)), strict=True)
        apart = max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs)
        loss = float(np.max(np.abs(np.subtract(alone, spread))))
        numbers[name] = {"loss": loss, "weights": apart}
        # Adam divides by the root of tiny moments, so that weights may part by more than losses.
        if not (loss < 1e-4 and apart < 1e-3):
            bad.append(name)
    worst = max(n["loss"] for n in numbers.values())
    said = (
        f"{jax.device_count()} devices, losses apart by at most {worst:.1e}; bad: {bad or 'none'}"
    )
    return verdict(not bad, said, **numbers)


def gpu_05(scale_name: str) -> Result:
    """Data parallel: several devices with rows of their own train as one device does."""
    return _parity(scale_name, (jax.device_count(), 1, 1))


def gpu_06(scale_name: str) -> Result:
    """FSDP: weights spread over several devices train as on one device."""
    return _parity(scale_name, (1, jax.device_count(), 1))


def gpu_07(scale_name: str) -> Result:
    """Generation: the cache changes no token, top-k 1 and a small top-p are greedy, EOS ends."""
    scale, wrong = SCALES[scale_name], []
    vocabulary = scale.base["vocab_size"]
    for name in BASES:
        model = fresh_model(of(name, scale))
        prompts = [[1, 5, 9], [2], list(range(10, 17))]
        generated = functools.partial(generate, model, prompts, max_new_tokens=8)
        greedy = generated(sampling=Sampling(temperature=0.0))
        if greedy != [_without_cache(model, prompt, 8) for prompt in prompts]:
            wrong.append(f"{name}: the cache changes tokens")
        if generated(sampling=Sampling(top_k=1)) != greedy:
            wrong.append(f"{name}: top_k=1 is not greedy")
        if generated(sampling=Sampling(top_p=1e-6)) != greedy:
            wrong.append(f"{name}: top_p=1e-6 is not greedy")
        end = greedy[0][3]
        ended = generated(sampling=Sampling(temperature=0.0), eos_id=end)
        if [len(row) for row in ended] != [_until(row, end) for row in greedy]:
            wrong.append(f"{name}: EOS does not end a row")
        drawn = generated(sampling=Sampling(temperature=2.0, seed=3))
        if drawn == greedy or any(not 0 <= t < vocabulary for row in drawn for t in row):
            wrong.append(f"{name}: drawing is not drawing")
    return verdict(not wrong, "; ".join(wrong) or f"{len(BASES)} bases, prompts of 1 to 7 tokens")


def _until(row: list[int], end: int) -> int:
    return row.index(end) if end in row else len(row)


def _without_cache(model: LM, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    forward = jax.jit(lambda model, tokens: model(tokens)[0])
    width = len(prompt) + n
    for _ in range(n):
        padded = np.zeros((1, width), np.int32)  # causal: what stands behind changes nothing
        padded[0, : len(tokens)] = tokens
        tokens.append(int(jnp.argmax(forward(model, jnp.asarray(padded))[0, len(tokens) - 1])))
    return tokens[len(prompt) :]


def gpu_08(scale_name: str) -> Result:
    """Save and resume: losses and arrays after it are bitwise those of an unbroken run."""
    scale, wrong = SCALES[scale_name], []
    data = batches(scale, scale.base["vocab_size"], 2 * scale.steps)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3), 1000)
    mesh = one_device()
    for name in BASES:
        base = of(name, scale, dropout=0.1)
        with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
            make = functools.partial(
                init_state, lambda r, base=base: LM(base, rngs=r), optimizer, mesh
            )
            state, where = make(seed=0)
            step = train_steps.jit_train_step(optimizer, where)
            checkpoints = Checkpoints(Path(folder))
            state, _ = _stepped(step, state, data[: scale.steps], mesh)
            checkpoints.save(state)
            checkpoints.wait()
            whole, losses = _stepped(step, state, data[scale.steps :], mesh)
            other, _ = make(seed=1)
            restored = checkpoints.restore(scale.steps, other)
            checkpoints.close()
            again, resumed = _stepped(step, restored, data[scale.steps :], mesh)
        same = all(
            np.array_equal(a, b)
            for a, b in zip(*(jax.tree.leaves(_plain(s)) for s in (whole, again)), strict=True)
        )
        if losses != resumed or not same:
            wrong.append(name)
    return verdict(not wrong, f"bitwise the same for {len(BASES) - len(wrong)} of {len(BASES)}")


def _stepped(step: Any, state: TrainState, data: list[Batch], mesh: jax.sharding.Mesh):
    losses = []
    for batch in data:
        state, metrics = step(state, on_mesh(batch, mesh, 1))
        losses.append(float(metrics["loss"]))
    return state, losses


def _plain(state: TrainState) -> Any:
    return dataclasses.replace(state, key=jax.random.key_data(state.key))


STEPS: dict[str, Callable[[str], Result]] = {
    f"GPU-{i:02}": step
    for i, step in enumerate(
        (gpu_01, gpu_02, gpu_03, gpu_04, gpu_05, gpu_06, gpu_07, gpu_08), start=1
    )
}
