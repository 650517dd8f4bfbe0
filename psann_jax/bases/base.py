"""What every base shares: sizes, positions, dtype, and the sublayers to build patterns from."""

import dataclasses
from functools import partial
import math
from typing import ClassVar

from psann_jax.fields import take_types
from psann_jax.nn.attention import Attention
from psann_jax.nn.block import MixerFactory, Pattern, Residual, SublayerFactory
from psann_jax.nn.linear import NORMAL, XAVIER, Initializer
from psann_jax.nn.stack import REMAT

DTYPES = ("bfloat16", "float16", "float32")


@dataclasses.dataclass(kw_only=True)
class Base:
    """The sizes of a model. `pattern` repeats until `n_layers` blocks are made.

    A subclass says in `positions` which positional encodings it knows, and in `recurrent` whether
    the states of all its mixers have a size that does not grow with the text.
    """

    positions: ClassVar[tuple[str, ...]] = ("rope", "alibi", "sinusoidal")
    recurrent: ClassVar[bool] = False
    # Modules of the model whose gradients training compares; a hybrid names its parts here.
    branches: ClassVar[tuple[str, ...]] = ()

    vocab_size: int | None = None  # None: as many as the tokenizer has
    d_model: int = 512
    n_layers: int = 8
    n_heads: int = 8
    d_mlp: int | None = None  # None: 4 * d_model
    positional_encoding: str = "rope"  # rope, alibi or sinusoidal
    dropout: float = 0.0
    tie_embeddings: bool = False  # the head reads the embedding's table
    dtype: str = "bfloat16"  # of activations (or float16, float32); weights are float32
    scan_layers: bool = False  # compile one layer and loop over it; for deep models
    remat: str = "none"  # none, dots or full: computed again for gradients; loops over layers

    def __post_init__(self):
        self._check_nested()
        take_types(self, "base.")
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "d_mlp"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or value < 1):
                raise ValueError(f"base.{name}={value} must be a positive whole number")
        self._choice("positional_encoding", self.positions)
        self._choice("dtype", DTYPES)
        self._choice("remat", tuple(REMAT))
        self._share("dropout")
        self._check_heads()

    def _check_nested(self) -> None:
        """Refuses another value where a config of its own belongs."""
        for field in dataclasses.fields(self):
            kind, value = field.default_factory, getattr(self, field.name)
            if isinstance(kind, type) and not isinstance(value, kind):
                takes_kind = isinstance(value, str) and hasattr(kind, "kind")
                example = f"kind={value!r}" if takes_kind else "..."
                raise ValueError(
                    f"base.{field.name}={value!r} must be a {kind.__name__}; "
                    f"give {field.name}={kind.__name__}({example})"
                )

    def _check_heads(self) -> None:
        d, h = self.d_model, self.n_heads
        if d % h:
            fits = [n for n in range(1, d + 1) if d % n == 0]
            nearest = min(fits, key=lambda n: abs(n - h))
            raise ValueError(
                f"base.d_model={d} is not a multiple of base.n_heads={h}; n_heads={nearest} fits"
            )
        if self.positional_encoding == "rope" and (d // h) % 2:
            raise ValueError(
                f"base.positional_encoding='rope' turns pairs, but the head size "
                f"d_model / n_heads = {d // h} is odd; change n_heads or use 'alibi'"
            )
        if self.positional_encoding == "sinusoidal" and d % 2:
            raise ValueError(f"base.d_model={d} must be even for positional_encoding='sinusoidal'")

    def _share(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not all(0 <= v < 1 for v in (value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"base.{name}={value} must be in [0, 1)")

    def _finite(self, *names: str) -> None:
        for name in names:
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"base.{name}={value} must be a finite number")

    def _idle(self, *names: str, because: str) -> None:
        """Refuses fields that were given a value and that nothing reads."""
        fields = {f.name: f for f in dataclasses.fields(self)}
        for name in names:
            field, value, reason = fields[name], getattr(self, name), getattr(self, because)
            make = field.default_factory
            if value != (field.default if make is dataclasses.MISSING else make()):
                raise ValueError(
                    f"base.{name}={value!r} has no effect with base.{because}={reason!r}; "
                    f"leave base.{name} out, or change base.{because}"
                )

    def _choice(self, name: str, allowed: tuple[str, ...]) -> None:
        if (value := getattr(self, name)) not in allowed:
            raise ValueError(f"base.{name}={value!r} must be one of {', '.join(allowed)}")

    @property
    def mlp_features(self) -> int:
        """F, the width of the MLP."""
        return self.d_mlp or 4 * self.d_model

    @property
    def has_mlp(self) -> bool:
        """Whether the blocks have an MLP; without one d_mlp is read by nothing."""
        return True

    @property
    def final_norm(self) -> str:
        """The norm before the head, one of nn.norm.NORMS."""
        return "rms"

    @property
    def embedding_norm(self) -> str:
        """The norm right after the embedding, one of nn.norm.NORMS."""
        return "none"

    @property
    def embedding_init(self) -> Initializer:
        """Draws the embedding's table [V, D]."""
        return NORMAL

    @property
    def head_init(self) -> Initializer:
        """Draws the head's kernel [D, V], where it is not tied."""
        return XAVIER

    def mixing_flops(self, length: int) -> int:
        """Operations a token that no matrix does, forward and backward, in rows of `length`.

        Here those of causal attention, half of T x T, in every block.
        """
        return 6 * self.n_layers * length * self.d_model

    def pattern(self) -> Pattern:
        """The blocks of one period, each a tuple of residual sublayers, in order."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its blocks are")

    def residual(self, mixer: MixerFactory, *, norm: str = "rms", **options) -> SublayerFactory:
        """x + mixer(norm(x)) as a sublayer of this base."""
        return partial(Residual, mixer=mixer, norm=norm, dropout=self.dropout, **options)

    def attention(self) -> MixerFactory:
        return partial(
            Attention,
            n_heads=self.n_heads,
            position=self.positional_encoding,
            dropout=self.dropout,
        )
