"""A run or a saved model in a few lines: base, parameters by part, steps, tokenizer, data."""

from collections.abc import Iterator
import json
import os
import textwrap
from typing import Any

from flax import nnx
import jax

from psann_jax import bases
from psann_jax.config import Config, leaves
from psann_jax.data import DataConfig, Tokenizer, load_tokenizer
from psann_jax.interop.folder import is_model_folder, load_folder
from psann_jax.model import LM, trainable
from psann_jax.nn.block import Residual
from psann_jax.nn.norm import NORMS
from psann_jax.nn.sine import Sine
from psann_jax.run.report import amount
from psann_jax.run.workdir import Workdir
from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.state import named_arrays

_WIDTH, _LABEL = 100, 14  # columns of a line, and of what stands before its text


def describe(path: str | os.PathLike) -> str:
    """What is in a workdir or a saved model folder, as lines of text; loads no run's weights.

    Raises:
      ValueError: the folder holds neither.
    """
    facts = _saved_model(path) if is_model_folder(path) else _run(Workdir(path))
    return "\n".join([str(path), *(_line(label, text) for label, text in facts)])


def parameters_by_part(model: Any) -> dict[str, int]:
    """Numbers in embedding, head, norms, sines and the mixers by name, the largest part first.

    A model of `jax.eval_shape` will do. A sine counts as sine, not as its mixer's.
    """
    parts = {"/".join(map(str, path)): part for path, part in _parts(model)}
    counts: dict[str, int] = {}
    for name, leaf in named_arrays(trainable(model)).items():
        inside = [prefix for prefix in parts if name.startswith(prefix + "/")]
        part = parts[max(inside, key=len)] if inside else "scale"
        counts[part] = counts.get(part, 0) + leaf.size
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _parts(model: Any) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Paths of the modules that have a name of their own, and the name."""
    yield ("embed",), "embedding"
    yield ("head",), "head"
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Sine):
            yield path, "sine"
        elif type(module) in NORMS.values():
            yield path, "norm"
        elif isinstance(module, Residual) and not isinstance(module.mixer, Residual):
            yield (*path, "mixer"), type(module.mixer).__name__.lower()


def _line(label: str, text: str) -> str:
    indent = " " * _LABEL
    first = f"  {label}".ljust(_LABEL)
    whole = {"break_on_hyphens": False, "break_long_words": False}  # a path stays one word
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=indent, **whole)


def _saved_model(path: str | os.PathLike) -> Iterator[tuple[str, str]]:
    saved = load_folder(path)
    yield from _model(saved.base)
    yield "rows", f"{saved.max_length:,} tokens"
    yield "tokenizer", _tokenizer(saved.tokenizer) if saved.tokenizer else "none"


def _run(workdir: Workdir) -> Iterator[tuple[str, str]]:
    config = workdir.saved_config()
    yield from _model(config.base)
    yield from _steps(workdir, config)
    yield "tokenizer", _tokenizer(load_tokenizer(workdir.tokenizer))
    yield "data", _data(workdir, config.data)


def _model(base: bases.Base) -> Iterator[tuple[str, str]]:
    given = {name: value for name, value in leaves(base).items() if value is not None}
    options = ", ".join(f"{name}={value}" for name, value in given.items())
    yield "base", f"{bases.name_of(base)}: {options}"
    model = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    parts = parameters_by_part(model)
    each = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    yield "parameters", f"{amount(sum(parts.values()))}: {each}"


def _steps(workdir: Workdir, config: Config) -> Iterator[tuple[str, str]]:
    if not workdir.checkpoints.exists():
        yield "steps kept", "none yet"
        return
    checkpoints = Checkpoints(workdir.checkpoints, reads_only=True)
    try:
        steps, best = sorted(checkpoints.steps()), checkpoints.best()
    finally:
        checkpoints.close()
    end = f" of {config.train.steps:,}" if config.train.steps else ""
    yield "steps kept", (", ".join(f"{step:,}" for step in steps) or "none yet") + end
    said = f"step {best[0]:,}, validation loss {best[1]:.4f} nats a token" if best else "not known"
    yield "best", said


def _tokenizer(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.kind}, {tokenizer.vocab_size:,} pieces"


def _data(workdir: Workdir, data: DataConfig) -> str:
    """Where the text is from, and the counts and digests that tell it from another."""
    if not workdir.data.exists():
        return "not prepared yet"
    identity = json.loads(workdir.data.read_text())
    source = ", ".join(data.sources) or "the embedded text"
    parts = ["texts in memory" if identity["texts_in_memory"] else source]
    for name in ("train", "val"):
        if f"{name}_rows" in identity:
            count = {unit: identity[f"{name}_{unit}"] for unit in ("documents", "tokens", "rows")}
            said = ", ".join(f"{n:,} {unit}" for unit, n in count.items())
            parts.append(f"{name} {said}, sha256 {identity[f'{name}_sha256'][:12]}")
    return "; ".join(parts)
