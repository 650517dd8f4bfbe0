"""What a benchmark is: a function of its flags, with their values at three scales."""

import argparse
from collections.abc import Callable
import os
from typing import Any, NamedTuple

from model_sizes import SIZES

SCALES = ("tiny", "cpu", "accelerator")
CHOICES = {
    "config": tuple(SIZES),
    "dtype": ("float32", "bfloat16"),
    "attention": ("math", "sdpa"),
    "op": ("wkv6", "ssd"),
    "decays": ("init", "strong"),
}


class By(NamedTuple):
    """The value of a flag at each scale: for a test, for a CPU, for an accelerator."""

    tiny: Any
    cpu: Any
    accelerator: Any


# Name -> its value, or By; of type bool, int, float, str, or a tuple of one. None: not that flag.
Flags = dict[str, Any]
COMMON: Flags = {
    "n": By(2, 20, 20),  # timed runs of each variant
    "warmup": By(1, 3, 3),  # runs before them
    "threads": os.cpu_count() or 1,  # cores of each side
    "keep_memory": False,  # no page faults, on both sides
}
# Calls of a timed run, which waits for the device once, at its end.
WINDOW: Flags = {"window": By(1, 1, 5)}
UNTIMED: Flags = {"n": None, "warmup": None}
DTYPE: Flags = {"dtype": By("float32", "float32", "bfloat16")}


class Benchmark(NamedTuple):
    """A function from its flags to a record with "results", a row by name.

    Attributes:
      flags: of its own, in place of COMMON where they have the same name; only what it heeds.
      has_children: whether other processes need the accelerator at the same time.
      about: what it measures, where the function's docstring says too little.
    """

    run: Callable[[argparse.Namespace], dict[str, Any]]
    flags: Flags
    has_children: bool = False
    about: str = ""


def add_flags(p: argparse.ArgumentParser, flags: Flags) -> None:
    """A flag for each; what is not given stays None, for `settle`."""
    for name, given in flags.items():
        by = given if isinstance(given, By) else By(given, given, given)
        value = by.accelerator
        options: dict[str, Any] = {"choices": CHOICES.get(name)}
        if isinstance(value, bool):
            options = {"action": argparse.BooleanOptionalAction}
        elif isinstance(value, tuple):
            options["type"] = _tuple_of(type(value[0]) if value else str)
        else:
            options["type"] = type(value)
        values = " / ".join(map(str, by)) if by is given else str(given)
        p.add_argument(f"--{name.replace('_', '-')}", help=values, **options)


def _tuple_of(kind: type) -> Callable[[str], tuple]:
    return lambda text: tuple(map(kind, text.split(",")))


def settle(args: argparse.Namespace, flags: Flags, scale: str) -> None:
    """Gives each flag that was not given its value at `scale`, one of SCALES."""
    for name, value in flags.items():
        if getattr(args, name) is None:
            setattr(args, name, getattr(value, scale) if isinstance(value, By) else value)
