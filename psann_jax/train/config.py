"""How long a run is, in what portions, and how often it reports and saves."""

import dataclasses

from psann_jax.fields import take_types

PRECISIONS = ("bfloat16", "tensorfloat32", "float32")  # as jax_default_matmul_precision knows them


@dataclasses.dataclass(kw_only=True)
class TrainConfig:
    """The loop's settings. One step takes `batch_tokens` tokens, on however many devices."""

    steps: int | None = None  # None: as many as `epochs` take
    epochs: int = 1  # where steps does not say how long
    batch_tokens: int = 32_768  # tokens a step, all micro-batches and devices together
    grad_accum_steps: int = 1  # micro-batches a step is cut into, to save memory
    label_smoothing: float = 0.0
    seed: int = 1337  # of the weights and dropout; data.seed orders the rows
    log_interval_steps: int = 50
    eval_interval_steps: int = 500  # 0: only at the end
    eval_batches: int = 0  # most validation batches a time; 0: all
    save_interval_steps: int = 500  # 0: only at the end
    keep_checkpoints: int = 3  # at least two; the best one is kept besides
    sample_tokens: int = 64  # length of each sampled continuation at the end; 0: none
    matmul_precision: str | None = None  # of float32 products; None leaves it to the device
    tensorboard: bool = False  # metrics also for TensorBoard, in WORKDIR/tensorboard
    profile_steps: str | None = None  # first and last of the steps to profile, as "20:25"
    max_skipped_steps: int = 10  # so many steps in a row without a finite loss end the run
    debug_nans: bool = False  # repeat a skipped step slowly, up to the operation that gave NaN
    ngram_baselines: bool = False  # at the end, compare with n-gram models of the same tokens

    def __post_init__(self):
        take_types(self, "train.")
        positive = ("epochs", "batch_tokens", "grad_accum_steps", "log_interval_steps")
        for name in ("steps", *positive, "keep_checkpoints", "max_skipped_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"train.{name}={value} must be at least 1")
        for name in ("eval_interval_steps", "eval_batches", "save_interval_steps", "sample_tokens"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"train.{name}={value} must not be negative; 0 turns it off")
        if self.matmul_precision not in (None, *PRECISIONS):
            raise ValueError(
                f"train.matmul_precision={self.matmul_precision!r} must be one of "
                f"{', '.join(PRECISIONS)}, or None"
            )
        if self.profile_steps is not None:
            span(self.profile_steps)
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"train.seed={self.seed} must be a whole number in [0, 2^32)")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"train.label_smoothing={self.label_smoothing} must be in [0, 1)")


def span(steps: str) -> tuple[int, int]:
    """The first and the last step of "20:25", both included.

    Raises:
      ValueError: it is not that.
    """
    first, colon, last = steps.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
        raise ValueError(f"train.profile_steps={steps!r} must be two steps, as 20:25")
    return int(first), int(last)
