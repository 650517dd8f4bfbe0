"""How large the models and batches of the validation are, and what a step of it answers."""

import dataclasses
import json
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from trainer import fresh_model, packed

from psann_jax import bases, sharding
from psann_jax.bases import Base
from psann_jax.model import LM
from psann_jax.seq import Batch

Result = dict[str, Any]
_DRAWN: dict[str, LM] = {}
RECURRENT = ("groundthink", "rwkv6", "mamba2")
BASES = ("waveresnet", "respsann", "sgrpsann", "geosparse", "transformer", *RECURRENT)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of the models and batches.

    Attributes:
      sizes: fields of every base.
      rows, length: of a batch [B, T].
      batch_tokens: B * T of the throughput, rising.
      speed_dtype: of the throughput; training is compared in it and in float32.
      steps: of a training.
      dtypes: compared with float32.
      bases: by name.
      in_float32: bases that are run in float32 alone and not timed, where time is short.
    """

    sizes: dict[str, int]
    rows: int
    length: int
    batch_tokens: tuple[int, ...]
    speed_dtype: str = "float32"
    steps: int = 5
    dtypes: tuple[str, ...] = ("bfloat16", "float16")
    bases: tuple[str, ...] = BASES
    in_float32: tuple[str, ...] = RECURRENT

    @property
    def vocabulary(self) -> int:
        return self.sizes["vocab_size"]

    @property
    def in_full(self) -> tuple[str, ...]:
        """The bases that are also run in half precision, and timed."""
        return tuple(name for name in self.bases if name not in self.in_float32)

    @property
    def training_dtypes(self) -> tuple[str, ...]:
        """On an accelerator another than float32 too, in which attention is a fused kernel."""
        return tuple(dict.fromkeys(("float32", self.speed_dtype)))

    def base(self, name: str, dtype: str = "float32", **fields: Any) -> Base:
        return bases.get(name)(**self.sizes | fields, dtype=dtype)

    def batches(self, n: int, rows: int | None = None) -> list[Batch]:
        """n different batches [B, T] of four documents a row, the last of them a short one.

        The targets are the inputs of the next place. The second half of a document repeats the
        first, so that what a token sees in the past tells what comes.
        """
        shape = (n, rows or self.rows, self.length + 1)
        # Few words of uneven frequency, so that there is something to learn in a few steps.
        tokens = np.random.default_rng(0).zipf(1.5, shape) % self.vocabulary
        document, place = self.length // 3, np.arange(self.length + 1)
        half = document // 2
        tokens = tokens[..., np.where(place % document < half, place, place - half)]
        return [packed(rows.astype(np.int32), document) for rows in tokens]


def computed_as(base: Base, model: LM) -> LM:
    """The model of `base` with the weights of another, as that of another dtype."""
    like = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(model))


def drawn_once(base: Base) -> LM:
    """A fresh model, drawn by the first step that asks for its sizes and kept for the others."""
    name = repr(dataclasses.replace(base, dtype="float32", dropout=0.0))
    if name not in _DRAWN:
        _DRAWN[name] = fresh_model(base)
    return computed_as(base, _DRAWN[name])


def stirred(model: LM) -> LM:
    """The model with weights drawn where all are zero: behind those, nothing would be tested.

    So begin matrices that end a mixer, whose layer then hides what is wrong before them.
    """
    rng = np.random.default_rng(0)

    def filled(a: jax.Array) -> jax.Array:
        if not jnp.issubdtype(a.dtype, jnp.floating) or np.any(np.asarray(a)):
            return a
        return jnp.asarray(rng.normal(0, a.shape[-1] ** -0.5, a.shape), a.dtype)

    return jax.tree.map(filled, model)


_TINY = {"vocab_size": 64, "d_model": 32, "n_layers": 1, "n_heads": 2, "d_mlp": 64}
_CPU = {"vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 4, "d_mlp": 256}
_FULL = {"vocab_size": 32_768, "d_model": 512, "n_layers": 8, "n_heads": 8, "d_mlp": 2048}
SCALES = {
    "tiny": Scale(_TINY, 8, 32, (256,), steps=3),
    "cpu": Scale(_CPU, 8, 128, (1024, 4096)),
    "accelerator": Scale(
        _FULL, 32, 1024, (65_536, 131_072, 262_144), "bfloat16", steps=10, in_float32=()
    ),
}


def one_device() -> jax.sharding.Mesh:
    return sharding.make_mesh(devices=jax.devices()[:1])


def verdict(passed: bool, said: str, **numbers: Any) -> Result:
    json.dumps(numbers)  # what a record cannot hold is an error here, in each step's own test
    return {"passed": bool(passed), "said": said, "numbers": numbers}
