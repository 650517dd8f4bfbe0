"""What a run will do, worked out before anything is compiled."""

from collections.abc import Sequence
import dataclasses

from flax import nnx
import jax

from psann_jax import bases, sharding
from psann_jax.config import Config
from psann_jax.data import Corpus, n_steps
from psann_jax.model import LM, parameter_count
from psann_jax.run.report import amount

_BYTES_PER_PARAMETER = 16  # float32 weight, gradient and two moments


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of a run: its mesh, the rows of a step, and how many steps."""

    mesh: jax.sharding.Mesh
    batch_rows: int  # rows a step, over all processes and micro-batches
    rows_multiple: int  # empty rows fill a step's rows up to a multiple of this
    steps: int
    tokens_per_step: int
    parameters: int

    def describe(self, config: Config) -> str:
        """One line: parameters, tokens a step, devices, mesh, memory."""
        shape = " ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items())
        ways = sharding.weight_ways(self.mesh)
        memory = self.parameters * _BYTES_PER_PARAMETER / ways / 1e9
        base = config.base
        sizes = [base.d_model, base.n_layers, base.n_heads]
        sizes += [base.mlp_features] if base.has_mlp else []
        return (
            f"{bases.name_of(base)} {'/'.join(map(str, sizes))}, "
            f"{amount(self.parameters)} parameters, {base.dtype}; "
            f"{self.steps:,} steps of {self.tokens_per_step:,} tokens "
            f"({self.batch_rows} rows of {config.data.max_length}{self._padding()}); "
            f"{self.mesh.size} {jax.devices()[0].device_kind} device(s), mesh {shape}; "
            f"{memory:.2g} GB a device for weights, gradients and optimizer"
        )

    def _padding(self) -> str:
        padded = -(-self.batch_rows // self.rows_multiple) * self.rows_multiple
        return f", filled up to {padded}" if padded > self.batch_rows else ""


def with_vocabulary(config: Config, vocab_size: int) -> Config:
    """The config with base.vocab_size filled in from the tokenizer where it is not set.

    Raises:
      ValueError: the model's vocabulary is smaller than the tokenizer's.
    """
    refuse_smaller_vocabulary(config, vocab_size)
    if config.base.vocab_size is not None:
        return config
    return dataclasses.replace(config, base=dataclasses.replace(config.base, vocab_size=vocab_size))


def refuse_smaller_vocabulary(config: Config, vocab_size: int) -> None:
    """Refuses a model whose vocabulary is set, and smaller than a tokenizer's (ValueError)."""
    if config.base.vocab_size is not None and config.base.vocab_size < vocab_size:
        raise ValueError(
            f"base.vocab_size={config.base.vocab_size} is smaller than the tokenizer's "
            f"{vocab_size}; raise it, or leave it out to take the tokenizer's"
        )


def make_plan(
    config: Config, corpus: Corpus, *, devices: Sequence[jax.Device] | None = None
) -> Plan:
    """The plan of a run, on `devices` (None: all of them).

    Raises:
      ValueError: the mesh does not fit the devices, or there are fewer rows than tracks.
    """
    if config.train.debug_nans and jax.process_count() > 1:
        raise ValueError(
            "train.debug_nans=True works in one process: of several, one would stop at its NaN and "
            f"the others of the {jax.process_count()} wait for it"
        )
    mesh = sharding.make_mesh(**dataclasses.asdict(config.mesh), devices=devices)
    # Of the config and the corpus alone: the mesh must not decide which rows a step has.
    rows, order = config.train.batch_tokens // config.data.max_length, config.data.order
    if order != "tracks":  # each of which needs a row of its own
        rows = min(rows, len(corpus.train))
    multiple = config.train.grad_accum_steps * sharding.batch_ways(mesh)
    steps = n_steps(len(corpus.train), rows, config.train.epochs, order)
    steps = config.train.steps or steps
    abstract = jax.eval_shape(lambda: LM(config.base, rngs=nnx.Rngs(0)))
    tokens = rows * config.data.max_length
    return Plan(mesh, rows, multiple, steps, tokens, parameter_count(abstract))
