"""AdamW, its learning-rate schedule, and which parameters decay."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from psann_jax.fields import is_number, nearest, take_types
from psann_jax.model import decaying, rates

WARMUP_SHARE = 0.05  # of the run, where warmup_steps is not given


@dataclasses.dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW with global-norm clipping, linear warm-up and cosine decay."""

    learning_rate: float = 2e-4  # the peak
    min_lr: float | None = None  # where the cosine ends; None: a tenth of the peak
    warmup_steps: int | None = None  # None: a twentieth of the run
    weight_decay: float = 0.01
    decay: str = "matrices"  # what decays: matrices, or all, as in psannlm
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    grad_clip: float = 1.0  # largest global norm of the gradient; 0: no clipping
    moments_dtype: str = "float32"  # bfloat16 halves what the moments take; it needs b1, b2 <= 0.99
    offload: bool = False  # moments wait in the host's pinned memory: room on the device, slower
    # Factors on the learning rate of parts of the model: (("mamba", 0.5),) halves it for every
    # parameter under a module of that name. They multiply with what the parameter declares.
    lr_factors: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        self._check_factors()
        take_types(self, "optimizer.")
        if not self.learning_rate > 0:
            raise ValueError(
                f"optimizer.learning_rate={self.learning_rate} must be positive, as 1e-3"
            )
        if self.min_lr is not None and not 0 <= self.min_lr <= self.learning_rate:
            raise ValueError(
                f"optimizer.min_lr={self.min_lr} must be in [0, learning_rate={self.learning_rate}]"
            )
        for name in ("warmup_steps", "weight_decay", "grad_clip"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise ValueError(f"optimizer.{name}={value} must not be negative")
        for name in ("learning_rate", "weight_decay", "grad_clip", "eps"):
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"optimizer.{name}={value} must be a finite number")
        if not self.eps > 0:
            raise ValueError(f"optimizer.eps={self.eps} must be positive, as 1e-8")
        for name in ("b1", "b2"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"optimizer.{name}={value} must be in [0, 1)")
        if self.moments_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"optimizer.moments_dtype={self.moments_dtype!r} must be one of float32, bfloat16"
            )
        for name in ("b1", "b2"):
            if self.moments_dtype == "bfloat16" and (value := getattr(self, name)) > 0.99:
                raise ValueError(
                    f"optimizer.moments_dtype='bfloat16' with optimizer.{name}={value}: what a "
                    f"step adds would be lost in rounding; set optimizer.{name}=0.99 or less, or "
                    "keep float32"
                )
        if self.decay not in ("matrices", "all"):
            raise ValueError(f"optimizer.decay={self.decay!r} must be one of matrices, all")

    def _check_factors(self) -> None:
        pairs = self.lr_factors
        if not (isinstance(pairs, (tuple, list)) and all(map(_is_factor, pairs))):
            raise ValueError(
                f"optimizer.lr_factors={pairs!r} must be pairs of a part and its factor, as "
                '(("mamba", 0.5),)'
            )
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"optimizer.lr_factors names {twice[0]!r} twice; give it one factor")
        for name, factor in pairs:
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"optimizer.lr_factors: {name!r} has {factor}; give 0 or more")


def _is_factor(pair: Any) -> bool:
    shaped = isinstance(pair, (tuple, list)) and len(pair) == 2
    return shaped and isinstance(pair[0], str) and is_number(pair[1])


def schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Learning rate of the 0-based update n of `total_steps`.

    Rises as (n + 1) / warmup to the peak, then falls along a half cosine that would reach
    min_lr with update total_steps - 1, and stays there.
    """
    peak = config.learning_rate
    low = 0.1 * peak if config.min_lr is None else config.min_lr
    warmup = config.warmup_steps
    if warmup is None:
        warmup = max(1, round(WARMUP_SHARE * total_steps))

    def rate(count):
        # numpy for a number, so that a report does not queue behind the device's next step
        xp = jnp if isinstance(count, jax.Array) else np
        nth = xp.float32(count) + 1.0
        share = xp.clip((nth - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        fall = low + (peak - low) * 0.5 * (1.0 + xp.cos(np.pi * share))
        after = fall if total_steps > warmup else peak
        return xp.where(nth <= warmup, peak * nth / max(1, warmup), after)

    return rate


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """The gradient transformation of `config` for a run of `total_steps` updates."""
    mask = decaying if config.decay == "matrices" else None
    adamw = optax.adamw(
        schedule(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=mask,
    )
    adamw = _stored_as(jnp.dtype(config.moments_dtype), adamw)
    clip = (optax.clip_by_global_norm(config.grad_clip),) if config.grad_clip else ()
    return optax.chain(*clip, adamw, _by_part(dict(config.lr_factors)))


def _stored_as(
    dtype: jnp.dtype, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """`inner` with its floating-point state kept in `dtype` between updates, float32 within one."""
    if dtype == jnp.float32:
        return inner

    def cast(state: Any, dtype: jnp.dtype) -> Any:
        def one(a: jax.Array) -> jax.Array:
            return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

        return jax.tree.map(one, state)

    def init(params: Any) -> Any:
        return cast(inner.init(params), dtype)

    def update(updates: Any, state: Any, params: Any = None):
        updates, state = inner.update(updates, cast(state, jnp.dtype("float32")), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(init, update)


def _by_part(factors: dict[str, float]) -> optax.GradientTransformation:
    """Scales each parameter's update by its declared rate and the factors of its modules.

    Raises:
      ValueError: no module of the model has a name in `factors`.
    """

    def factor(path: Any, _: Any, rate: float) -> float:
        return rate * math.prod(factors.get(name, 1.0) for name in _names(path))

    def init(params: Any) -> optax.EmptyState:
        paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        known = sorted({name for path in paths for name in path if not name.isdigit()})
        if missing := sorted(factors.keys() - set(known)):
            raise ValueError(
                f"optimizer.lr_factors names {missing[0]!r}, which no part of the model is called"
                f"{nearest(missing[0], known)}; parts: {', '.join(known)}"
            )
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None):
        each = jax.tree_util.tree_map_with_path(factor, params, rates(params))
        return jax.tree.map(_times, updates, each), state

    return optax.GradientTransformation(init, update)


def _times(update: jax.Array, factor: float) -> jax.Array:
    """The product; a factor of 1 leaves no operation in the step, and 0 none of the update's."""
    if factor == 0.0:
        return jnp.zeros_like(update)
    return update if factor == 1.0 else update * factor


def _names(path: Any) -> list[str]:
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value").split("/")
