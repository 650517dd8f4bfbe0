"""Trains small models on needles in haystacks and maps where each one finds them.

    python experiments/needle/run.py [MODEL ...] [--out experiments/needle/results]

Every document is a prompt of the evaluation with its answer: at most LENGTH tokens and two digits,
in a haystack that repeats three sentences, so that little but the value is to be learnt. The maps
go on to sixteen times that length.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.evals.needle import Form
from psann_jax.evals.needle_report import needle_table
from psann_jax.run.environment import set_up
from psann_jax.run.main import run
from psann_jax.run.needle import measure_needles, write_needles
from psann_jax.run.report import Report
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig

FILLER = "the grass is green. the sky is blue. the sun is yellow. "
LENGTH, SHORTEST, DIGITS = 64, 12, 2
LENGTHS = (16, 32, 64, 96, 128, 192, 256, 512, 1024)
DOCUMENTS, TRIALS = 60_000, 50
SMALL = {"d_model": 64, "n_layers": 2, "n_heads": 4, "dtype": "float32"}
MODELS = {  # name: base, steps
    "groundthink": ("groundthink", 1600),
    "transformer": ("transformer", 1600),
    "untrained": ("groundthink", 1),
}


def document(rng: np.random.Generator) -> str:
    """A prompt and its answer; half of the prompts have LENGTH tokens with BOS."""
    key = "".join(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 2))
    question, value, end = Form().parts(key, f"{rng.integers(10**DIGITS):0{DIGITS}}")
    needle = question + value + end
    length = LENGTH if rng.random() < 0.5 else rng.integers(SHORTEST, LENGTH)
    room = length - 1 - len(needle) - len(question)
    offset, before = rng.integers(len(FILLER)), rng.integers(room + 1)
    filler = (FILLER * (2 + room // len(FILLER)))[offset : offset + room]
    return filler[:before] + needle + filler[before:] + question + value


def write_texts(folder: Path) -> None:
    """Writes documents.jsonl and filler.txt, the same ones every time."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    lines = [json.dumps({"text": document(rng)}) for _ in range(DOCUMENTS)]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "filler.txt").write_text(FILLER)


def config(name: str, folder: Path) -> Config:
    base, steps = MODELS[name]
    return Config(
        base=bases.get(base)(**SMALL),
        data=DataConfig(
            sources=(str(folder / "documents.jsonl"),),
            tokenizer="char",
            max_length=LENGTH + DIGITS,  # EOS is the last target
            pack_sequences=False,
            val_split=0.01,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, min_lr=1e-3),
        train=TrainConfig(
            steps=steps,
            batch_tokens=32 * (LENGTH + DIGITS),
            log_interval_steps=100,
            eval_interval_steps=400,
            save_interval_steps=400,
            keep_checkpoints=1,
            sample_tokens=0,
        ),
        workdir=str(folder / name),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--workdir", type=Path, default=Path("runs/needle"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    set_up()
    write_texts(args.workdir)
    for name in args.models or MODELS:
        run(config(name, args.workdir))
        found = measure_needles(
            args.workdir / name,
            Report(),
            lengths=LENGTHS,
            trials=TRIALS,
            digits=DIGITS,
            text=(str(args.workdir / "filler.txt"),),
        )
        print(needle_table(found))
        write_needles(found, args.out / name)


if __name__ == "__main__":
    main()
