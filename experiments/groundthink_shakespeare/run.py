"""GroundThink on Shakespeare, character by character: how good it gets, and which fusion is best.

    python experiments/groundthink_shakespeare/run.py long --text tinyshakespeare.txt
    python experiments/groundthink_shakespeare/run.py compare --text tinyshakespeare.txt
    python experiments/groundthink_shakespeare/run.py report

`long` trains the preset 5M (HY). `compare` trains every fusion and, with as many parameters, pure
RWKV-6, pure Mamba-2 and the transformer, each with several seeds. Both go on where they stopped.
Each run leaves a JSON in results/, of which `report` makes the table and the pictures. What is
there is not measured again; other runs of its task and size must have its settings.
"""

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

from flax import nnx
import jax
from report import write_report

from psann_jax import bases
from psann_jax.cli.exits import exit_code
from psann_jax.config import Config
from psann_jax.data import DataConfig, prepare
from psann_jax.model import LM, parameter_count
from psann_jax.run.environment import describe, set_up
from psann_jax.run.load import load_run
from psann_jax.run.main import run
from psann_jax.train.config import TrainConfig
from psann_jax.train.metrics import read_metrics
from psann_jax.train.optimizer import OptimizerConfig
from psann_jax.train.step import eval_step

RESULTS = Path(__file__).parent / "results"
FUSIONS = ("HY", "GF", "WS", "RF", "CP", "GF-RH", "GF-MH", "HGF")
BASELINES = ("rwkv6", "mamba2", "transformer")
ROW_LENGTHS, EVALUATED = (256, 512, 1024, 2048), 4096  # characters of a row, and of a batch
VOCABULARY = 97  # of the text, with GroundThink's reserved ids
CURVE = ("step", "loss", "val_loss", "val_loss_carried", "grad_ratio", "gate_mean")
CURVE += ("gain_rwkv_mean", "gain_mamba_mean", "rms_rwkv_mean", "rms_mamba_mean")


def model(name: str, size: str, dropout: float) -> bases.Base:
    """The fusion, or the baseline with as many parameters as the fusion HY, at a preset's size."""
    sizes = bases.preset(size)
    shape = {"d_model": sizes.d_model, "n_layers": sizes.n_layers, "n_heads": sizes.n_heads}
    common = {"dtype": "float32", "dropout": dropout}
    if name in FUSIONS:
        return bases.preset(name, **shape, **common)
    wanted, make = _count(bases.preset("HY", **shape)), bases.get(name)
    heads = 2 * sizes.d_model // 64 if name == "mamba2" else sizes.n_heads
    fields = {"d_model": sizes.d_model, "n_heads": heads, "tie_embeddings": True, **common}
    counts = {n: _count(make(**fields, n_layers=n)) for n in range(2, 40)}
    layers = min(counts, key=lambda n: abs(counts[n] - wanted))
    return make(**fields, n_layers=layers, scan_layers=layers > 12)


def _count(base: bases.Base) -> int:
    base = dataclasses.replace(base, vocab_size=VOCABULARY)
    return parameter_count(jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0))))


def config(name: str, seed: int, args: argparse.Namespace) -> Config:
    base = model(name, args.size, args.dropout)
    return Config(
        base=base,
        data=DataConfig(
            sources=(str(args.text),),
            tokenizer="groundthink-char",
            document="file",
            max_length=args.length,
            val_split=0.1,
            split="tail",
            order="tracks" if base.recurrent else "shuffled",
        ),
        optimizer=OptimizerConfig(
            learning_rate=args.learning_rate,
            min_lr=args.learning_rate / 20,
            warmup_steps=max(1, args.steps // 20),
            weight_decay=0.1,
        ),
        train=TrainConfig(
            steps=args.steps,
            batch_tokens=args.rows * args.length,
            seed=seed,
            log_interval_steps=50,
            eval_interval_steps=args.eval_interval,
            save_interval_steps=args.eval_interval,
            keep_checkpoints=1,
            sample_tokens=0,
        ),
        workdir=str(args.workdir / f"{args.task}-{args.size}-{name}-{seed}"),
    )


def by_row_length(chosen: Config) -> dict[int, float]:
    """Validation loss of the best checkpoint, each row from a zero state, by the rows' length."""
    model, evaluate = load_run(chosen.workdir, "best").model, jax.jit(eval_step)
    losses = {}
    for length in ROW_LENGTHS:
        val = prepare(dataclasses.replace(chosen.data, max_length=length), progress=False).val
        if val is None:
            continue
        rows, nats, tokens = max(1, EVALUATED // length), 0.0, 0.0
        for first in range(0, len(val), rows):
            numbers = [n if n < len(val) else -1 for n in range(first, first + rows)]
            found = evaluate(model, val.batch(numbers))
            nats, tokens = nats + float(found[0]), tokens + float(found[1])
        losses[length] = nats / tokens
    return losses


def settings(args: argparse.Namespace) -> dict[str, int | float | str]:
    """What all runs of a task and size have in common."""
    return {
        "steps": args.steps,
        "tokens_per_step": args.rows * args.length,
        "length": args.length,
        "learning_rate": args.learning_rate,
        "dropout": args.dropout,
        "eval_interval": args.eval_interval,
        "text": hashlib.sha256(args.text.read_bytes()).hexdigest(),
    }


def refuse_other_settings(args: argparse.Namespace) -> None:
    """Raises ValueError where a result of the task and size has other settings than are asked for.

    Results of before may lack some of them.
    """
    asked = settings(args)
    for path in sorted(RESULTS.glob(f"{args.task}-{args.size}-*.json")):
        found = json.loads(path.read_text())
        others = {k: v for k, v in asked.items() if found.get(k, v) != v}
        if others:
            said = ", ".join(f"{k} {found[k]!r} -> {v!r}" for k, v in others.items())
            raise ValueError(
                f"{path} has other settings: {said}; give those, or move the results of "
                f"{args.task} {args.size} away to measure anew"
            )


def trained(name: str, seed: int, args: argparse.Namespace) -> None:
    """Runs one model to its end, or from where it stopped, and writes its JSON, once."""
    path = RESULTS / f"{args.task}-{args.size}-{name}-{seed}.json"
    if path.exists():
        print(f"{path} is already there, and is not measured again")
        return
    chosen = config(name, seed, args)
    run(chosen)
    rows = read_metrics(Path(chosen.workdir) / "metrics.jsonl")
    measured = [row for row in rows if "val_loss" in row]
    best = min(measured, key=lambda row: row["val_loss"])
    speeds = sorted(row["tokens_per_s"] for row in rows if row["step"] > 1)
    result = {
        "task": args.task,
        "name": name,
        "size": args.size,
        "seed": seed,
        "parameters": _count(chosen.base),
        **settings(args),
        "train_loss": rows[-1]["loss"],
        "val_loss": measured[-1]["val_loss"],
        "val_loss_carried": measured[-1].get("val_loss_carried"),
        "best_val_loss": best["val_loss"],
        "best_step": best["step"],
        "best_val_loss_carried": best.get("val_loss_carried"),
        "best_val_loss_by_row_length": by_row_length(chosen) if args.task == "long" else {},
        "tokens_per_s": speeds[len(speeds) // 2],
        "grad_ratio": rows[-1].get("grad_ratio"),
        "curve": [{key: row[key] for key in CURVE if key in row} for row in rows],
        "environment": {k: v for k, v in describe().items() if k != "command"},
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("report", help="the table and the pictures of what has run")
    for name, steps, rows, length, dropout in (
        ("long", 2500, 4, 512, 0.15),
        ("compare", 1000, 8, 256, 0.1),
    ):
        task = tasks.add_parser(name)
        task.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt")
        task.add_argument("--steps", type=int, default=steps)
        task.add_argument("--size", default="5M", help="a preset's sizes: 1M, 5M or 8M")
        task.add_argument("--rows", type=int, default=rows, help="parallel tracks")
        task.add_argument("--length", type=int, default=length, help="characters a step of a track")
        task.add_argument("--learning-rate", type=float, default=1.5e-3)
        task.add_argument("--dropout", type=float, default=dropout)
        task.add_argument("--eval-interval", type=int, default=max(100, steps // 10))
        task.add_argument("--seeds", type=int, default=1 if name == "long" else 3)
        task.add_argument("--workdir", type=Path, default=Path("runs/groundthink_shakespeare"))
        names = "HY" if name == "long" else ",".join((*FUSIONS, *BASELINES))
        task.add_argument("--models", default=names, help="comma-separated")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> None:
    if args.task != "report":
        refuse_other_settings(args)
        set_up()
        for seed in range(args.seeds):  # all models with one seed, before the next
            for name in args.models.split(","):
                trained(name, seed, args)
    write_report(RESULTS)


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: measure(arguments())))
