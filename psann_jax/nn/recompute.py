"""Parts of a layer that the backward pass computes again, to keep fewer of their arrays."""

from collections.abc import Callable, Iterator
import contextlib
import contextvars
from typing import Any

import jax

_KEEPS_ALL: contextvars.ContextVar[bool] = contextvars.ContextVar("keeps_all", default=False)


def recomputed(part: Callable[..., Any], policy: Any = None) -> Callable[..., Any]:
    """`part`, of whose arrays only those that the policy of `jax.checkpoint` names are kept."""
    return part if _KEEPS_ALL.get() else jax.checkpoint(part, policy=policy)


@contextlib.contextmanager
def keeping_all() -> Iterator[None]:
    """Computes such parts as any other, so that what happens inside of them can be noted."""
    token = _KEEPS_ALL.set(True)
    try:
        yield
    finally:
        _KEEPS_ALL.reset(token)
