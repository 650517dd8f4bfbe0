"""What the compiler is told beyond its defaults: options that were measured, by backend.

Each gives way to the same flag in the variable XLA_FLAGS; docs/performance.md has what they are
worth.
"""

from collections.abc import Callable
import functools
import os
from typing import Any

import jax

OPTIONS: dict[str, dict[str, Any]] = {
    # Vectors of AVX-512 where the processor has them; XLA would use half of each.
    "cpu": {"xla_cpu_prefer_vector_width": 512},
}


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` under the options of the backend, which is asked for here and now.

    Where there are options, JAX takes them for a whole program only: what this returns can be
    neither traced by another jit, scan or grad, nor be part of one. Give those `function` itself.
    """
    asked = os.environ.get("XLA_FLAGS", "")
    return jax.jit(function, compiler_options=known(jax.default_backend(), asked), **options)


@functools.cache
def known(backend: str, flags: str) -> dict[str, Any]:
    """The options of a backend that `flags` leave open and that this version of XLA knows."""
    options = {n: value for n, value in OPTIONS.get(backend, {}).items() if f"--{n}=" not in flags}
    return {name: value for name, value in options.items() if _is_known(name, value)}


def _is_known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
