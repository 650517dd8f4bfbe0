"""What a run would need on a mesh of devices that need not be here: bytes, operations, shardings.

Everything comes from shapes: no array is made and nothing is compiled. The activations are those
that the gradient saves, exactly. The peak is the sum of what is sure to be there at once; what XLA
holds besides, while it works on a layer, only `compiled_bytes` knows.
"""

import collections
from collections.abc import Callable
import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from psann_jax import sharding
from psann_jax.bases import Base
from psann_jax.config import Config
from psann_jax.data.corpus import asked_vocab_size
from psann_jax.model import (
    LM,
    LMState,
    flops_per_token,
    parameter_count,
    trainable,
    with_trained,
)
from psann_jax.ops.cross_entropy import chunk_tokens
from psann_jax.seq import Batch
from psann_jax.train.optimizer import make_optimizer
from psann_jax.train.state import abstract_state, named_arrays
from psann_jax.train.step import jit_train_step, loss_fn

_GB = 1e9
_ASSUMED = ", assumed: the text decides how many characters there are; set base.vocab_size"


@dataclasses.dataclass(frozen=True)
class Weight:
    """Parameters of one kind: the same name but for the layer's number, and the same shape."""

    name: str
    shape: tuple[int, ...]
    where: str  # the PartitionSpec
    device_bytes: int  # of one of them, on one device
    count: int


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes are those of one device, numbers of rows those of one device's micro-batch."""

    mesh: dict[str, int]
    parameters: int
    weights: list[Weight]
    weight_bytes: int
    optimizer_bytes: int
    offloaded: bool  # the optimizer's, to the host's memory but for the update itself
    carry_bytes: int
    gathered_bytes: int  # weights that FSDP brings together for the time of their use
    row_bytes: int  # saved for the backward pass, a row
    rows: int  # of a micro-batch
    logits_bytes: int  # of a chunk of the loss
    flops_per_token: int
    tokens_per_step: int
    vocab_size: int
    vocab_known: bool  # else it depends on the text

    @property
    def fixed_bytes(self) -> int:
        """What is there whatever the micro-batch, the gradients as large as the weights."""
        moments = 0 if self.offloaded else self.optimizer_bytes
        state = 2 * self.weight_bytes + moments + self.carry_bytes
        return state + self.gathered_bytes + self.logits_bytes

    @property
    def peak_bytes(self) -> int:
        return max(self.fixed_bytes + self.rows * self.row_bytes, self.update_bytes)

    @property
    def update_bytes(self) -> int:
        """What is there while the optimizer works, activations gone."""
        return 2 * self.weight_bytes + self.optimizer_bytes + self.carry_bytes

    def rows_that_fit(self, memory_bytes: float) -> int:
        """The largest micro-batch of a device with so much memory, in rows."""
        if memory_bytes < self.update_bytes:
            return 0
        return max(0, int((memory_bytes - self.fixed_bytes) // self.row_bytes))

    def table(self, memory_gb: float | None = None) -> str:
        """Lines for a terminal; with a device's memory also what fits in it."""
        lines = [f"{'parameter':44} {'shape':>18} {'sharded':>22} {'count':>5} {'MB a device':>12}"]
        for w in self.weights:
            shape, size = "x".join(map(str, w.shape)), w.count * w.device_bytes / 1e6
            lines.append(f"{w.name:44} {shape:>18} {w.where:>22} {w.count:5} {size:12.2f}")
        mesh = " ".join(f"{axis}={size}" for axis, size in self.mesh.items())
        lines += [
            "",
            f"mesh                {mesh}",
            f"parameters          {self.parameters:,}",
            f"vocabulary          {self.vocab_size:,}" + ("" if self.vocab_known else _ASSUMED),
            f"operations          {self.flops_per_token / 1e9:.3f} GFLOP a token, "
            f"{self.flops_per_token * self.tokens_per_step / 1e12:.1f} TFLOP a step of "
            f"{self.tokens_per_step:,} tokens",
            "a device:",
            f"  weights           {_gb(self.weight_bytes)}",
            f"  gradients         {_gb(self.weight_bytes)}",
            f"  optimizer         {_gb(self.optimizer_bytes)}"
            + (", in the host's memory until the update" if self.offloaded else ""),
        ]
        if self.carry_bytes:
            lines.append(f"  carried states    {_gb(self.carry_bytes)}")
        if self.gathered_bytes:
            lines.append(
                f"  gathered weights  {_gb(self.gathered_bytes)}, the embedding and a layer"
            )
        lines += [
            f"  logits            {_gb(self.logits_bytes)}, of a chunk of the loss",
            f"  activations       {_gb(self.rows * self.row_bytes)}, {self.rows} rows of a "
            f"micro-batch at {self.row_bytes / 1e6:.2f} MB",
            f"  peak              {_gb(self.peak_bytes)}",
        ]
        if memory_gb is not None:
            fit = self.rows_that_fit(memory_gb * _GB)
            lines.append(f"{memory_gb:g} GB a device hold a micro-batch of {fit} rows")
            if fit < self.rows:
                lines.append(
                    "too small: raise train.grad_accum_steps, set base.remat='full' or "
                    "optimizer.offload=True, or spread the weights with mesh.fsdp"
                )
        return "\n".join(lines)


def _gb(n: float) -> str:
    return f"{n / _GB:9.3f} GB"


def estimate(config: Config, devices: int | None = None) -> Estimate:
    """What a run of `config` would need on so many devices.

    Args:
      devices: None takes the product of the mesh's sizes, or where one of them is -1 the devices
        that are here.

    Raises:
      ValueError: the mesh does not fit the devices, or a size does not divide over it.
    """
    sizes = dataclasses.asdict(config.mesh)
    if devices is None:
        devices = jax.device_count() if -1 in sizes.values() else math.prod(sizes.values())
    mesh = sharding.abstract_mesh(**sizes, devices=devices)
    base, length, train = _base(config), config.data.max_length, config.train
    (vocabulary, known), step_rows = _vocabulary(config), train.batch_tokens // length
    state, where = abstract_state(
        lambda rngs: LM(base, rngs=rngs),
        make_optimizer(config.optimizer, train.steps or 1),
        mesh,
        make_carry=_make_carry(config),
        offload=config.optimizer.offload,
    )
    backend = jax.default_backend() if devices == jax.device_count() else "an accelerator"
    rows = -(-step_rows // (train.grad_accum_steps * sharding.batch_ways(mesh)))
    return Estimate(
        mesh=dict(mesh.shape),
        parameters=parameter_count(state.model),
        weights=_weights(state.model, where.model),
        weight_bytes=_device_bytes(state.model, where.model),
        optimizer_bytes=_device_bytes(state.opt_state, where.opt_state),
        offloaded=config.optimizer.offload,
        carry_bytes=_device_bytes(state.carry, where.carry),
        gathered_bytes=_gathered(state.model, base.dtype) if sharding.weight_ways(mesh) > 1 else 0,
        row_bytes=saved_bytes(state.model, 2, length) - saved_bytes(state.model, 1, length),
        rows=rows,
        logits_bytes=4 * vocabulary * min(rows * length, chunk_tokens(vocabulary, backend)),
        flops_per_token=flops_per_token(state.model, base, length),
        tokens_per_step=step_rows * length,
        vocab_size=vocabulary,
        vocab_known=known,
    )


def compiled_bytes(config: Config, devices: int | None = None) -> int:
    """Peak memory of the compiled train step on one device of the mesh, by XLA's own analysis.

    Raises:
      ValueError: the mesh does not fit the devices that are here, or `devices` is another number.
    """
    if devices not in (None, jax.device_count()):
        raise ValueError(
            f"--compile needs the {devices} devices themselves, and {jax.device_count()} are here; "
            f"JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={devices} pretends that many"
        )
    mesh = sharding.make_mesh(**dataclasses.asdict(config.mesh))
    base, optimizer = _base(config), make_optimizer(config.optimizer, config.train.steps or 1)
    length, micro = config.data.max_length, config.train.grad_accum_steps
    ways = micro * sharding.batch_ways(mesh)
    rows = -(-(config.train.batch_tokens // length) // ways) * ways // micro
    on_mesh = functools.partial(
        jax.ShapeDtypeStruct, (micro, rows, length), sharding=sharding.batch_sharding(mesh, 1)
    )
    ids = on_mesh(jnp.int32)
    batch = Batch(ids, ids, on_mesh(jnp.float32), ids, ids)
    with jax.set_mesh(mesh):
        state, where = abstract_state(
            lambda rngs: LM(base, rngs=rngs),
            optimizer,
            mesh,
            make_carry=_make_carry(config),
            offload=config.optimizer.offload,
        )
        step: Any = jit_train_step(optimizer, where, label_smoothing=config.train.label_smoothing)
        return program_bytes(step.lower(state, batch).compile())


def program_bytes(program: jax.stages.Compiled) -> int:
    """Memory of a device that a compiled program takes: what it reads, returns and holds between.

    0 where the backend does not say.
    """
    sizes = program.memory_analysis()
    if sizes is None:
        return 0
    given = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + given + sizes.temp_size_in_bytes


def _base(config: Config) -> Base:
    return dataclasses.replace(config.base, vocab_size=_vocabulary(config)[0])


def _vocabulary(config: Config) -> tuple[int, bool]:
    """The model's vocabulary, or the tokenizer's; and whether that is known before the text."""
    known = config.base.vocab_size or asked_vocab_size(config.data)
    return known or config.data.vocab_size, known > 0


def _make_carry(config: Config) -> Callable[[LM], LMState] | None:
    if config.data.order != "tracks":
        return None
    length = config.data.max_length
    rows = config.train.batch_tokens // length
    return lambda model: model.init_state(rows, length)


def saved_bytes(model: Any, rows: int, length: int) -> int:
    """Bytes that the gradient of the loss keeps between its passes, weights included.

    Of the program as it is written: XLA may keep less. All on one device, none of it spread over
    mesh.tensor.
    """
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    batch = Batch(ids, ids, jax.ShapeDtypeStruct(ids.shape, jnp.float32), ids, ids)

    def pull(model: LM, batch: Batch):
        return jax.vjp(lambda w: loss_fn(with_trained(model, w), batch), trainable(model))[1]

    return _bytes(jax.eval_shape(pull, model, batch))


def _gathered(model: LM, dtype: str) -> int:
    """Bytes of the embedding's table, in float32, and of a layer in the activations' dtype."""
    layers = sum(math.prod(a.shape) for a in jax.tree.leaves(trainable(model.stack)))
    table = math.prod(model.embed.table.shape)
    return 4 * table + jnp.dtype(dtype).itemsize * layers // model.stack.repeats


def _bytes(tree: Any) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def _device_bytes(tree: Any, where: Any) -> int:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(where), strict=True)
    return sum(_one_device(a, s) for a, s in pairs)


def _one_device(a: Any, where: jax.sharding.NamedSharding) -> int:
    size = a.dtype.itemsize if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key) else 8
    return math.prod(where.shard_shape(a.shape)) * size


def _weights(model: Any, where: Any) -> list[Weight]:
    kinds: collections.Counter[tuple] = collections.Counter()
    placed = named_arrays(where)
    for name, a in named_arrays(model).items():
        spec = str(tuple(placed[name].spec)).replace("'", "").replace("None", "-")
        kind = re.sub(r"/\d+(?=/)", "/*", name), a.shape, spec, _one_device(a, placed[name])
        kinds[kind] += 1
    return [Weight(*kind, count=count) for kind, count in kinds.items()]
