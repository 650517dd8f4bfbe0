"""Rows of the fault matrix that hand in what is not right: texts, configs, numbers."""

import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

from faults import ROOT, Row
import numpy as np

_TOKENIZERS = ("sentencepiece", "char")
_PARTS = (
    "plain words",
    "\x00",
    "\ufeff",
    "\r\n",
    "\u2581",
    "\u202eright to left\u202c",
    "שלום עולם",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u0301\u0301",
    "\U0010ffff",
    "\x85\u2028\u2029",
    "\t  \t",
    "ﬁ ﬂ ½ Å",
)


def tokenizers(folder: Path) -> list[Any]:
    from psann_jax.data import fit_tokenizer

    lines = [f"the damped wave {i} goes on and on, line {i * i}" for i in range(2000)]
    return [fit_tokenizer(kind, iter(lines), 600) for kind in _TOKENIZERS]


def text_round_trip(fitted: list[Any], generator: np.random.Generator, folder: Path) -> str | None:
    """A thousand strings: encoded and decoded they are the same, or a ValueError says why not."""
    for _ in range(1000):
        text = _text(generator)
        for kind, tokenizer in zip(_TOKENIZERS, fitted, strict=True):
            try:
                back = tokenizer.decode(tokenizer.encode(text), errors="surrogateescape")
            except ValueError as error:
                if any(0xD800 <= ord(c) < 0xE000 for c in text) and "\n" not in str(error):
                    continue
                return f"{kind} of {text!r}: {error}"
            if back != text:
                return f"{kind} of {text!r} gives {back!r}"
    return None


def _text(generator: np.random.Generator) -> str:
    parts = []
    for _ in range(int(generator.integers(1, 6))):
        if generator.random() < 0.5:
            parts.append(str(generator.choice(_PARTS)))
        else:
            top = int(generator.choice([128, 0x250, 0x3000, 0x10000, 0x110000]))
            codes = generator.integers(0, top, int(generator.integers(1, 12)))
            keep_lone = generator.random() < 0.02
            parts += [chr(c) for c in codes if keep_lone or not 0xD800 <= c < 0xE000]
    return "".join(parts)


def bad_config(flags: list[str], generator: np.random.Generator, folder: Path) -> str | None:
    """One flag of the list, given to a process of its own that finds no text prepared before."""
    flag, began = flags[int(generator.integers(len(flags)))], time.monotonic()
    command = [sys.executable, "-m", "psann_jax.main", *arguments(flag, folder)]
    environment = os.environ | {"PSANN_JAX_CACHE": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    took = time.monotonic() - began
    if took > 5:
        return f"{flag}: it took {took:.1f} s"
    return wrong_refusal(flag, folder, done.returncode, done.stdout + done.stderr)


def arguments(flag: str, folder: Path) -> list[str]:
    """The quickstart with a flag, for a workdir in `folder`."""
    config = ROOT / "configs" / "quickstart.py"
    return [f"--config={config}", f"--config.workdir={folder / 'run'}", flag]


def wrong_refusal(flag: str, folder: Path, code: int, said: str) -> str | None:
    """What is wrong with how a flag was refused: the exit code, or what was said or left."""
    lines = said.splitlines()
    if code != 2 or not 1 <= len(lines) <= 3:
        return f"{flag}: exit code {code} and {len(lines)} lines: {lines[:5]}"
    if (folder / "run").exists():
        return f"{flag}: the workdir was made"
    if [p for p in (folder / "cache").glob("*") if p.name != "xla"]:
        return f"{flag}: text was prepared before it was refused"
    field = flag.removeprefix("--config.").partition("=")[0].rpartition(".")[2]
    if field not in said:
        return f"{flag}: {field} is not named in {lines}"
    return None


BAD_FLAGS = [
    f"--config.{flag}"
    for flag in (
        "base.d_modle=64",
        "base.d_model=0",
        "base.d_model=-8",
        "base.d_model=63",
        "base.d_model=many",
        "base.d_model=1e400",
        "base.n_heads=7",
        "base.n_heads=0",
        "base.n_layers=0",
        "base.d_mlp=0",
        "base.dropout=1.5",
        "base.dropout=-0.1",
        "base.dtype=float8",
        "base.vocab_size=3",
        "base.remat=some",
        "base.positional_encoding=absolute",
        "base.sine.frequency=nan",
        "base.sine.learnable=('phase',)",
        "base.sine.frequency_bounds=(4,0.5)",
        "base.sine.damping=-1",
        "data.sources=('/nowhere/at/all.txt',)",
        "data.max_length=0",
        "data.vocab_size=1",
        "data.val_split=1.0",
        "data.val_split=-0.5",
        "data.tokenizer=wordpiece",
        "data.order=random",
        "data.tokenizer_path=/nowhere/tokenizer.model",
        "optimizer.learning_rate=-1",
        "optimizer.learning_rate=inf",
        "optimizer.warmup_steps=-5",
        "optimizer.weight_decay=-0.1",
        "optimizer.min_lr=1",
        "optimizer.grad_clip=-1",
        "train.steps=0",
        "train.steps=2.5",
        "train.batch_tokens=0",
        "train.grad_accum_steps=0",
        "train.label_smoothing=1",
        "train.seed=-1",
        "train.profile_steps=20",
        "train.log_interval_steps=0",
        "train.keep_checkpoints=0",
        "mesh.data=3",
        "mesh.fsdp=0",
        "mesh.tensor=-2",
        "mesh.pipeline=2",
        "workdir=/proc/none",
    )
]


def flags(folder: Path) -> list[str]:
    return BAD_FLAGS


ROWS = {
    "text": Row(
        fault="a thousand strings of random Unicode, control characters, marks and emoji",
        passes="encoded and decoded they are the same, or one line says why not",
        full=100,
        share=2,
        prepare=tokenizers,
        trial=text_round_trip,
    ),
    "config": Row(
        fault=f"one of {len(BAD_FLAGS)} values that a config must not have",
        passes="exit code 2 in less than 5 s, at most three lines, the field named, no workdir, "
        "and no text prepared, though none was before",
        full=300,
        share=40,
        prepare=flags,
        trial=bad_config,
    ),
}
