"""psann_jax: sine-activated language models in JAX. Importing this does no JAX work."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psann_jax.bases import register
    from psann_jax.lm import psannLM, psannLMDataPrep

__version__ = "0.1.0"
__all__ = ["psannLM", "psannLMDataPrep", "register"]

_HOMES = {
    "psannLM": "psann_jax.lm",
    "psannLMDataPrep": "psann_jax.lm",
    "register": "psann_jax.bases",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'psann_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
