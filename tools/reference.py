"""The reference data of psannlm 2.0.1, and what psann_jax makes of its inputs.

A case is an entry of manifest.json and the arrays of its file. Each function here takes one and
gives our results under the names of the arrays that they should equal.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.data.pack import Packer, Part
from psann_jax.infer.sampling import filtered
from psann_jax.interop import psannlm
from psann_jax.model import trainable, with_trained
from psann_jax.nn.norm import RMSNorm
from psann_jax.nn.sine import inverse_softplus
from psann_jax.ops.alibi import slopes
from psann_jax.ops.attention import alibi_bias
from psann_jax.ops.cross_entropy import linear_cross_entropy
from psann_jax.ops.rope import interleaved_order, rope, sinusoidal
from psann_jax.ops.sine import sine
from psann_jax.seq import Batch
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer, schedule
from psann_jax.train.state import TrainState
from psann_jax.train.step import loss_fn, train_step

MATCHED = ("upstream", "causal patch")  # references of models; the others read the future
_SINES = {"amplitude": "A", "frequency": "f", "decay": "d"}
Results = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reference:
    """One case; `arrays` is the content of a JSON file where the case has no arrays."""

    case: dict[str, Any]
    arrays: Any

    def group(self, prefix: str) -> Results:
        """The arrays whose names begin so, without the prefix."""
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}


def manifest(folder: Path) -> dict[str, Any]:
    """Versions of what made the data, and its `cases`, in order."""
    return json.loads((folder / "manifest.json").read_text())


def is_matched(case: dict[str, Any]) -> bool:
    """Whether ours should equal it; models that read the future are no standard."""
    return case["type"] != "model" or case["reference"] in MATCHED


def load(folder: Path, case: dict[str, Any]) -> Reference:
    """The case with what its file holds."""
    path = folder / case["file"]
    if path.suffix == ".json":
        return Reference(case, json.loads(path.read_text()))
    with np.load(path) as arrays:
        return Reference(case, dict(arrays))


def of_model(reference: Reference) -> Results:
    """logits, loss, and the gradient g/NAME of each weight."""
    case, batch = reference.case, _batch(reference.arrays["ids"])
    model = psannlm.to_model(case["base"], case["config"], reference.group("w/"))
    logits, nats, grads = _forward_and_backward(model, batch)
    n = batch.inputs.size
    gradients = psannlm.weights(jax.tree.map(lambda g: g / n, grads))
    return {"logits": logits, "loss": nats / n, **{f"g/{k}": g for k, g in gradients.items()}}


@jax.jit
def _forward_and_backward(model, batch: Batch):
    loss = jax.value_and_grad(lambda weights: loss_fn(with_trained(model, weights), batch))
    return model(batch.inputs)[0], *loss(trainable(model))


def of_training(reference: Reference) -> Results:
    """losses, grad_norms_before_clip and the weights w1/NAME after the updates."""
    case, given = reference.case, reference.case["optimizer"]
    model = psannlm.to_model(case["base"], case["config"], reference.group("w0/"))
    config = OptimizerConfig(
        learning_rate=given["lr"],
        min_lr=0.0,
        warmup_steps=given["warmup_steps"],
        weight_decay=given["weight_decay"],
        decay="all",
        b1=given["betas"][0],
        b2=given["betas"][1],
        eps=given["eps"],
        grad_clip=given["clip_global_norm"],
    )
    optimizer, smoothing = make_optimizer(config, given["total_steps"]), given["label_smoothing"]
    state = TrainState(jnp.int32(0), model, optimizer.init(model), jax.random.key(0))
    step = jax.jit(lambda s, b: train_step(s, b, optimizer=optimizer, label_smoothing=smoothing))
    rows = []
    for ids in reference.arrays["ids"]:
        state, metrics = step(state, _batch(ids[None]))
        rows.append(metrics)
    return {
        "losses": np.array([r["loss"] for r in rows]),
        "grad_norms_before_clip": np.array([r["grad_norm"] for r in rows]),
        **{f"w1/{k}": w for k, w in psannlm.to_state(state.model).items()},
    }


def _batch(ids: np.ndarray) -> Batch:
    """[..., T + 1] token ids as one document a row."""
    tokens = ids.astype(np.int32)
    inputs = tokens[..., :-1]
    positions = np.broadcast_to(np.arange(inputs.shape[-1], dtype=np.int32), inputs.shape)
    ones = np.ones(inputs.shape, np.float32)
    return Batch(inputs, tokens[..., 1:], ones, positions, ones.astype(np.int32))


def of_sine(reference: Reference) -> Results:
    """y, the gradients g_z, g_A, g_f, g_d, and the raw parameters init_A, init_f, init_d."""
    case = reference.case
    arrays = {k: jnp.asarray(v, jnp.float32) for k, v in reference.arrays.items()}

    @jax.jit
    def both(z, raw, cotangent):
        def forward(z, raw):
            return sine(z, *_sine_values(case, raw), envelope=case["decay_mode"])

        y, back = jax.vjp(forward, z, raw)
        return y, back(cotangent)

    raw = {letter: arrays[f"_{letter}"] for letter in _SINES.values()}
    y, (g_z, g_raw) = both(arrays["z"], raw, arrays["cotangent"])
    starts = zip(_SINES.values(), case["init_amp_freq_decay"], strict=True)
    return {
        "y": y,
        "g_z": g_z,
        **{f"g_{letter}": g for letter, g in g_raw.items()},
        **{f"init_{k}": jnp.full(len(raw[k]), inverse_softplus(value)) for k, value in starts},
    }


def _sine_values(case: dict[str, Any], raw: dict[str, jax.Array]) -> list[jax.Array]:
    """What raw parameters stand for, as the original defines it: bounds after the transform."""
    values = []
    for name, letter in _SINES.items():
        value = jax.nn.softplus(raw[letter]) + (1e-6 if name == "frequency" else 0.0)
        low, high = (case["bounds"] or {}).get(name) or (None, None)
        values.append(jnp.clip(value, low, high))
    return [v[:, None] for v in values] if case["feature_dim"] == 1 else values


def of_parts(reference: Reference) -> Results:
    """ALiBi, RoPE (in pairs as there), sinusoids, RMSNorm, cross-entropy, and what top-k keeps."""
    arrays, results = reference.arrays, {}
    for name in arrays:
        kind, *rest = name.split("/")
        if kind == "alibi_slopes":
            results[name] = np.float32(slopes(int(rest[0])))
        elif kind == "alibi_bias":
            results[name] = _alibi(int(rest[0]), *arrays[name].shape[1:])
        elif name.endswith("q_rot"):
            q = arrays[name.replace("q_rot", "q")]
            results[name] = _turned(q, start=int(rest[1]))
        elif kind == "sinusoidal":
            results[name] = sinusoidal(jnp.arange(len(arrays[name]))[None], int(rest[0]))[0]
        elif name == "rmsnorm/y":
            norm = RMSNorm(arrays["rmsnorm/scale"].size)
            norm.scale[...] = jnp.asarray(arrays["rmsnorm/scale"])
            results[name] = norm(arrays["rmsnorm/x"])
        elif name.startswith("ce/label_smoothing"):
            results[name] = _cross_entropy(arrays, float(rest[1]))
        elif name.startswith("sampling/top_k"):
            logits = jnp.asarray(arrays["sampling/logits"])
            results[name] = filtered(logits, int(rest[1]), None)
    return results


def _alibi(n_heads: int, queries: int, keys: int) -> jax.Array:
    where = jnp.arange(keys - queries, keys)[None], jnp.arange(keys)[None]
    return alibi_bias(slopes(n_heads), *where)[0]


def _turned(q: np.ndarray, start: int) -> np.ndarray:
    """RoPE of [B, H, T, K] in the original's interleaved pairs."""
    order = interleaved_order(1, q.shape[-1])
    positions = start + jnp.arange(q.shape[2])[None]
    turned = rope(q.transpose(0, 2, 1, 3)[..., order], positions)
    return np.asarray(turned)[..., np.argsort(order)].transpose(0, 2, 1, 3)


def _cross_entropy(arrays: Results, smoothing: float) -> jax.Array:
    """The mean over the tokens of their logits, which the identity takes for features."""
    logits, labels = arrays["sampling/logits"], arrays["ce/labels"].astype(np.int32)
    n, vocabulary = logits.shape
    one = jnp.asarray(logits)[None], jnp.eye(vocabulary), labels[None], jnp.ones((1, n))
    return linear_cross_entropy(*one, label_smoothing=smoothing) / n


def of_schedule(case: dict[str, Any]) -> np.ndarray:
    """The rate of each update, of a schedule of lr_schedule_public.json."""
    config = OptimizerConfig(
        learning_rate=case["lr"], min_lr=0.0, warmup_steps=case["warmup_steps"]
    )
    rate = schedule(config, case["total_steps"])
    return np.array([float(rate(n)) for n in range(len(rates_given(case)))])


def rates_given(case: dict[str, Any]) -> list[float]:
    """The original's rates; where all is warm-up it goes on past the end, which we do not."""
    ends = case["warmup_steps"] >= case["total_steps"]
    return case["lr_used_at_step"][: case["total_steps"] if ends else None]


def of_packing(documents: list[list[int]], case: dict[str, Any]) -> list[list[int]]:
    """Rows of T + 1 tokens of documents that have their specials, of data_public.json."""
    packer = Packer(case["max_length"], case["pack_sequences"], pad_id=0, bos_id=1, eos_id=2)
    parts = [Part(np.array(ids[1:-1], np.int32)) for ids in documents]
    return np.concatenate([packer.add(parts).tokens, packer.finish().tokens]).tolist()
