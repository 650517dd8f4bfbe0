"""The folder of a run: what is in it, and whether a config may go on with it."""

from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import json
import os
from pathlib import Path
import tempfile
from typing import Any

import jax

from psann_jax import cluster
from psann_jax.config import Config, from_json, leaves, to_json
from psann_jax.data import Corpus, CorpusMeta
from psann_jax.fields import local_path
from psann_jax.run.beginning import Given, identity
from psann_jax.run.environment import write_description
from psann_jax.run.lock import locked
from psann_jax.run.stop import MachineFailed

# Fields that may change between the starts of one run: they move no number of a step.
FREE = {
    "workdir",
    "data.cache_dir",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
    "base.scan_layers",
    "base.remat",
    "optimizer.offload",
    "train.log_interval_steps",
    "train.eval_interval_steps",
    "train.eval_batches",
    "train.save_interval_steps",
    "train.keep_checkpoints",
    "train.sample_tokens",
    "train.max_skipped_steps",
    "train.debug_nans",
    "train.profile_steps",
    "train.tensorboard",
    "train.ngram_baselines",
}
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)
LENGTH = {"train.steps", "train.epochs"}  # a longer run has another schedule from here on


class Workdir:
    """Paths of a run's files, created on the first start.

    Raises:
      ValueError: an address for a folder.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = local_path("workdir", path).expanduser()
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tokenizer = self.path / "tokenizer.model"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples.txt"
        self.curve = self.path / "loss_curve.png"
        self.environment = self.path / "env.json"
        self.data = self.path / "data.json"
        self.profile = self.path / "profile"
        self.tensorboard = self.path / "tensorboard"
        self.lock = self.path / "run.lock"
        self.stacks = self.path / f"stacks-{jax.process_index()}.txt"

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

    def refuse(self, config: Config) -> None:
        """Raises ValueError where a run of `config` may not begin or go on in the folder.

        Process 0 looks for all: it is the one that changes what the others would see.
        """
        if jax.process_index() == 0:
            try:
                self.refuse_other_folder()
                if self.exists():
                    self.refuse_other_run(config)
            except OSError as error:  # a file in its place, or a folder that is not ours
                raise self._unwritable(error) from None
            self.refuse_unwritable()

    def refuse_other_run(self, config: Config) -> None:
        """Raises ValueError where going on with `config` would not be the same run."""
        breaking = {n: v for n, v in self.changes(config).items() if n not in FREE | LENGTH}
        if breaking:
            said = ", ".join(f"{n} {old!r} -> {new!r}" for n, (old, new) in breaking.items())
            raise ValueError(
                f"workdir {self.path} holds a run with another config: {said}; "
                "choose another --workdir, or the old values to go on"
            )

    def refuse_other_folder(self) -> None:
        """Raises ValueError where the folder has files and no config: it is no run's.

        A run that was killed as it began may have left its lock and parts of files.
        """
        if self.exists() or not self.path.exists():
            return
        names = {p.name for p in self.path.iterdir()} - {self.lock.name}
        if any(not name.endswith(".part") for name in names):
            raise ValueError(
                f"workdir {self.path} is not empty and holds no run; choose another --workdir"
            )

    def refuse_unwritable(self) -> None:
        """Raises ValueError where the folder cannot be made or written; makes and leaves nothing.

        A folder that is not there yet can be made where the nearest one above it can be written.
        """
        try:
            there = next(p for p in (self.path, *self.path.parents) if p.exists())
            with tempfile.TemporaryFile(dir=there, suffix=".part"):
                pass
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> Exception:
        """For a run that has begun, a disk that fails is not its fault."""
        if isinstance(error, TimeoutError):  # of the lock
            return MachineFailed(error)
        failed = error.errno in _OF_THE_DISK and self.exists()
        kind = MachineFailed if failed else ValueError
        return kind(f"workdir {self.path} cannot be written: {error}")

    def refuse_other_data(self, meta: CorpusMeta) -> None:
        """Raises ValueError where the rows are not those that the run began with."""
        if changed := self.changed_data(meta):
            said = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
            raise ValueError(
                f"the text of data.sources has changed since the run in {self.path} began "
                f"({said}); bring it back, or choose another --workdir"
            )

    def changed_data(self, meta: CorpusMeta) -> dict[str, tuple[object, object]]:
        """In what the rows differ from those that the run began with: name -> (old, new)."""
        if not self.data.exists():
            return {}
        old, new = self._beginning(), identity(meta)
        return {name: (old.get(name), new[name]) for name in new if old.get(name) != new[name]}

    def texts_in_memory(self) -> bool:
        """Whether the run's documents were given by a program, so that no path leads to them."""
        return self._beginning().get("texts_in_memory", False)

    def validated_apart(self) -> bool:
        """Whether the run's validation text was given by a program, beside data.sources."""
        return self._beginning().get("validation_apart", False)

    def began_from(self, weights: str | None) -> bool:
        """Whether the run here began from the weights of this digest, None being new ones.

        Also where no run is here, or one from before that was recorded.
        """
        return self._beginning().get("weights", weights) == weights

    def _beginning(self) -> dict[str, Any]:
        """What the run began with: the fields of `Given`, and `identity` of its rows."""
        if not self.data.exists():
            return {}
        try:
            found = json.loads(self.data.read_text())
        except ValueError as error:  # also of text that is no UTF-8
            raise ValueError(self._damaged(str(error))) from None
        if not isinstance(found, dict):
            raise ValueError(self._damaged("it is no object"))
        return found

    def _damaged(self, fault: str) -> str:
        return (
            f"{self.data} cannot be read: {fault}; remove it to go on unchecked, or bring it back"
        )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder, and keeps other runs out of it while the context lasts.

        Raises:
          ValueError: another run is there, or the folder cannot be made, or holds something else.
        """
        with contextlib.ExitStack() as stack:
            cluster.together(lambda: self._hold(stack) if jax.process_index() == 0 else None)
            yield

    def _hold(self, stack: contextlib.ExitStack) -> None:
        try:
            self.refuse_other_folder()
            self.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(self.lock))
        except OSError as error:
            raise self._unwritable(error) from None

    def open(self, config: Config, corpus: Corpus, given: Given | None = None) -> None:
        """Makes the folder and its descriptions, or checks those that are there.

        Of several processes the first does it, and the others look whether they see it.

        Raises:
          ValueError: the folder cannot be made or written, holds something else, or is not shared.
        """

        def open_or_find() -> None:
            if jax.process_index() == 0:
                self._open(config, corpus, given)
            elif not self.exists():
                raise ValueError(
                    f"workdir {self.path} of process 0 is not there for this one; choose a folder "
                    "that all processes share"
                )

        cluster.one_then_others(open_or_find)

    def _open(self, config: Config, corpus: Corpus, given: Given | None) -> None:
        try:
            self.refuse_other_folder()
            self.path.mkdir(parents=True, exist_ok=True)
            if self.exists():  # of a run that began while this one prepared its text
                self.refuse_other_run(config)
            self.refuse_other_data(corpus.meta)
            _replace(self.config, to_json(config))  # first: from here on the folder is a run's
            if not self.tokenizer.exists():
                part = self.tokenizer.with_suffix(".part")
                corpus.tokenizer.save(part)
                part.rename(self.tokenizer)
            if not self.data.exists():  # what the run began with stays
                began = dataclasses.asdict(given or Given()) | identity(corpus.meta)
                _replace(self.data, json.dumps(began, indent=2) + "\n")
            write_description(self.environment)
        except OSError as error:
            raise self._unwritable(error) from None


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)
