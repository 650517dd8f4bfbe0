"""The sizes that models are measured at, by name."""

import argparse
from typing import Any, NamedTuple

from psann_jax import bases
from psann_jax.bases import Base


class Sizes(NamedTuple):
    d_model: int
    n_layers: int
    n_heads: int
    d_mlp: int
    vocab_size: int
    length: int  # tokens a row
    batch: int  # rows a step


SIZES = {
    "tiny": Sizes(32, 2, 2, 64, 64, 32, 2),
    "d128": Sizes(128, 2, 2, 512, 1024, 128, 8),
    "d256": Sizes(256, 4, 4, 1024, 4096, 256, 8),
    "d512": Sizes(512, 4, 8, 2048, 8192, 256, 4),
    "long": Sizes(256, 4, 4, 1024, 4096, 1024, 2),
    "decode": Sizes(512, 8, 8, 2048, 100, 96, 8),  # of psannlm's script for its cache
    "forward": Sizes(256, 4, 4, 1024, 32_000, 4096, 32),  # of psannlm's script for throughput
    "forward-cpu": Sizes(256, 4, 4, 1024, 4096, 512, 2),
    "S": Sizes(512, 8, 8, 2048, 32_000, 1024, 128),
    "M": Sizes(768, 12, 12, 3072, 32_000, 1024, 64),
    "M50": Sizes(768, 12, 12, 3072, 50_304, 1024, 64),  # GPT-2's
    "L": Sizes(2048, 24, 16, 8192, 32_000, 2048, 8),
}
_WIDTHS = Sizes._fields[:5]  # those of the model, not of its rows
OVERRIDES = dict.fromkeys(Sizes._fields, 0)  # flags; 0: as the config has it


def sizes_of(args: argparse.Namespace) -> Sizes:
    """The sizes of `args.config`, with those that `args` has itself and that are not 0."""
    return with_overrides(SIZES[args.config], args)


def with_overrides(sizes: Sizes, args: argparse.Namespace) -> Sizes:
    own = {name: getattr(args, name, 0) for name in Sizes._fields}
    return sizes._replace(**{name: size for name, size in own.items() if size})


def widths(sizes: Sizes) -> dict[str, int]:
    """What a base takes of them."""
    return {name: getattr(sizes, name) for name in _WIDTHS}


def base_of(name: str, sizes: Sizes, dtype: str, **fields: Any) -> Base:
    return bases.get(name)(**widths(sizes), dtype=dtype, **fields)
