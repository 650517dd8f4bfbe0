"""The folder of a run: what is in it, and whether a config may go on with it."""

import json
import os
from pathlib import Path
import shutil

from psann_jax.config import Config, from_json, leaves, to_json
from psann_jax.data import Tokenizer
from psann_jax.run.environment import write_description

# Fields that may change between the starts of one run: they move no number of a step.
FREE = {
    "workdir",
    "data.cache_dir",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
    "base.scan_layers",
    "base.remat",
    "train.log_interval_steps",
    "train.eval_interval_steps",
    "train.eval_batches",
    "train.save_interval_steps",
    "train.keep_checkpoints",
    "train.sample_tokens",
    "train.ngram_baselines",
}
LENGTH = {"train.steps", "train.epochs"}  # a longer run has another schedule from here on


class Workdir:
    """Paths of a run's files, created on the first start."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).expanduser()
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tokenizer = self.path / "tokenizer.model"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples.txt"
        self.curve = self.path / "loss_curve.png"
        self.environment = self.path / "env.json"

    def exists(self) -> bool:
        return self.config.exists()

    def saved_config(self) -> Config:
        """The config of the run in this folder.

        Raises:
          ValueError: there is none, or it cannot be read.
        """
        if not self.exists():
            raise ValueError(f"{self.path} is no run: it has no config.json; give a run's workdir")
        try:
            return from_json(self.config.read_text())
        except ValueError as error:
            raise ValueError(f"{self.config} cannot be read: {error}") from None

    def changes(self, config: Config) -> dict[str, tuple[object, object]]:
        """Fields in which `config` differs from the run in this folder: name -> (old, new).

        A vocabulary that `config` leaves to the tokenizer is none.
        """
        old, new = leaves(self.saved_config()), leaves(config)
        if new["base.vocab_size"] is None:
            del old["base.vocab_size"], new["base.vocab_size"]
        names = old.keys() | new.keys()
        return {n: (old.get(n), new.get(n)) for n in sorted(names) if old.get(n) != new.get(n)}

    def refuse_other_run(self, config: Config) -> None:
        """Raises ValueError where going on with `config` would not be the same run."""
        breaking = {n: v for n, v in self.changes(config).items() if n not in FREE | LENGTH}
        if breaking:
            said = ", ".join(f"{n} {old!r} -> {new!r}" for n, (old, new) in breaking.items())
            raise ValueError(
                f"workdir {self.path} holds a run with another config: {said}; "
                "choose another --workdir, or the old values to go on"
            )

    def open(self, config: Config, tokenizer: Tokenizer) -> None:
        """Makes the folder and its description; the run's first config is kept as it was.

        Raises:
          ValueError: the folder cannot be made or written, or holds something else.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.exists() and any(self.path.iterdir()):
                raise ValueError(
                    f"workdir {self.path} is not empty and holds no run; choose another --workdir"
                )
            _replace(self.config, to_json(config))
            if not self.tokenizer.exists():
                part = self.tokenizer.with_suffix(".part")
                tokenizer.save(part)
                part.rename(self.tokenizer)
            write_description(self.environment)
        except OSError as error:
            raise ValueError(f"workdir {self.path} cannot be written: {error}") from None

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free


def _replace(path: Path, text: str) -> None:
    json.loads(text)
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)
