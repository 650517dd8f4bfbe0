"""psannLM: text in, a trained model, text out, in three lines.

The names are those of psannlm (PyTorch), and so are the defaults but those at the end of
docs/parity.md.
"""

from collections.abc import Iterable, Mapping
import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any
import warnings

from psann_jax import bases, cluster
from psann_jax.config import Config
from psann_jax.data import Corpus, Tokenizer, load_tokenizer
from psann_jax.fields import from_tree, local_path
from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling
from psann_jax.interop.folder import SavedModel, check_vocabulary, save_folder
from psann_jax.lm_data import psannLMDataPrep
from psann_jax.lm_options import (
    GENERATE,
    base_fields,
    devices_of,
    fit_config,
    flag,
    mesh_of,
    refuse_unknown,
)
from psann_jax.model import LM
from psann_jax.run.beginning import Given, digest
from psann_jax.run.environment import use_compile_cache
from psann_jax.run.going_on import check_length, refuse_other_weights
from psann_jax.run.load import load_saved
from psann_jax.run.plan import make_plan, with_vocabulary
from psann_jax.run.report import Report
from psann_jax.run.stop import Preempted
from psann_jax.run.train import train
from psann_jax.run.workdir import Workdir

__all__ = ["psannLM", "psannLMDataPrep"]
_UNATTACHED = "came without a tokenizer; call attach_tokenizer with that of its training"


class psannLM:  # noqa: N801 - psannlm's name
    """A sine language model: fit, generate, save, load.

    Args:
      base: waveresnet, respsann, sgrpsann, geosparse, transformer, or a registered name.
      d_model, n_layers, n_heads: None takes the base's own, 512, 8 and 8 of psannlm's.
      d_mlp: None is 4 * d_model.
      vocab_size: None takes the tokenizer's at the first fit.
      positional_encoding: rope (default), alibi or sinusoidal; `rope=False` is sinusoidal.
      sine_params: amp_init, freq_init, damp_init, their _init_std, _range and _bounds,
        trainable, learnable, decay_mode; as a mapping or an object.
      options: fields of the base, or psannlm's names of them (wave_interleave, wave_replace,
        wave_kernel_size, wave_dilation_growth, wave_dropout, geosparse_...).

    Raises:
      TypeError: an unknown option.
      ValueError: a value that the base refuses, or an unknown base.
    """

    def __init__(
        self,
        base: str = "waveresnet",
        *,
        d_model: int | None = None,
        n_layers: int | None = None,
        n_heads: int | None = None,
        d_mlp: int | None = None,
        vocab_size: int | None = None,
        positional_encoding: str | None = None,
        rope: bool | None = None,
        dropout: float | None = None,
        mlp_activation: str | None = None,
        sine_params: Mapping[str, Any] | object | None = None,
        **options: Any,
    ):
        given = {
            "d_model": d_model,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "d_mlp": d_mlp,
            "vocab_size": vocab_size,
            "positional_encoding": positional_encoding,
            "rope": rope,
            "dropout": dropout,
            "mlp_activation": mlp_activation,
            "sine_params": sine_params,
        }
        self.config = from_tree(bases.get(base), base_fields(base, given, options), "base.")
        self._model: LM | None = None
        self._tokenizer: Tokenizer | None = None
        self._max_length = 1024

    @property
    def base(self) -> str:
        return bases.name_of(self.config)

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._tokenizer

    @property
    def vocab_size(self) -> int | None:
        return self.config.vocab_size

    @property
    def d_model(self) -> int:
        return self.config.d_model

    @property
    def n_layers(self) -> int:
        return self.config.n_layers

    @property
    def n_heads(self) -> int:
        return self.config.n_heads

    @property
    def d_mlp(self) -> int:
        return self.config.mlp_features

    @property
    def positional_encoding(self) -> str:
        return self.config.positional_encoding

    @property
    def rope(self) -> bool:
        return self.positional_encoding == "rope"

    def fit(
        self,
        train_data: psannLMDataPrep,
        val_data: psannLMDataPrep | None = None,
        *,
        epochs: int = 1,
        batch_tokens: int = 131_072,
        lr: float = 2e-4,
        amp: str | None = None,
        ddp: str = "auto",
        fsdp: str = "off",
        checkpoint_dir: str | os.PathLike | None = None,
        **options: Any,
    ) -> "psannLM":
        """Trains on `train_data`; a second fit goes on from the weights of the first, and reads
        its texts with the tokenizer of the first.

        Args:
          val_data: validation texts; None takes train_data's own split, if it has one.
          batch_tokens: tokens a step; at least a row, at most the corpus.
          amp: bf16, fp16 (with a scaled loss), or fp32 (none): the dtype of the activations; None
            keeps the model's, which is bf16 unless `psannLM(dtype="float32")`.
          ddp: auto and on use all devices, off uses one.
          fsdp: off keeps the weights whole on each device, full_shard cuts them over all of them.
          checkpoint_dir: where metrics and checkpoints go, of one fit. A stopped fit resumes
            there, from its newest checkpoint, with the model that it began from or left (when
            loaded: `load(folder, step="newest")`); a new model takes the weights of a finished
            one. None writes nothing.
          options: steps, warmup_steps, weight_decay, betas, eps, grad_clip, grad_accum_steps,
            label_smoothing, grad_checkpoint, seed, log_interval_steps, save_interval_steps,
            eval_interval_steps, eval_max_batches, min_lr, offload (of
            Adam's moments, to the host's memory), verbose.

        Raises:
          TypeError: train_data is no psannLMDataPrep, or an unknown option.
          ValueError: a value out of range, a vocabulary that does not fit, or a checkpoint_dir
            that is in use, another run's or of other weights, or cannot be written; or where the
            fit that left these weights is finished.
          RuntimeError: the model was loaded without a tokenizer.
          KeyboardInterrupt: the fit was stopped; the model has the weights reached.
        """
        _check_data("train_data", train_data)
        if val_data is not None:
            _check_data("val_data", val_data)
        use_compile_cache()
        report = Report(quiet=not flag("verbose", options.pop("verbose", True)))
        named = {"epochs": epochs, "batch_tokens": batch_tokens, "lr": lr, "amp": amp, **options}
        corpus = self._corpus(train_data, val_data)
        config = fit_config(self.config, train_data.config, named)
        config = dataclasses.replace(config, mesh=mesh_of(fsdp))
        config = with_vocabulary(config, corpus.tokenizer.vocab_size)
        plan = make_plan(config, corpus, devices=devices_of(ddp))
        workdir = None
        if checkpoint_dir is not None:
            workdir = Workdir(local_path("checkpoint_dir", checkpoint_dir))
        tokenizer = corpus.tokenizer
        with contextlib.ExitStack() as stack:
            if workdir:
                cluster.together(lambda: workdir.refuse(config))
                stack.enter_context(workdir.held())
                weights = digest(self._model)
                refuse_other_weights(workdir, config, plan, self._model, weights)
                given = Given(
                    texts_in_memory=train_data.texts_in_memory,
                    validation_apart=val_data is not None,
                    weights=weights,
                )
                check_length(workdir, config, corpus, plan, report)
                workdir.open(config, corpus, given)
            report.line(f"tokenizer {tokenizer.kind}, {tokenizer.vocab_size:,} pieces")
            report.line(plan.describe(config))
            try:
                outcome = train(
                    config, corpus, plan, report=report, workdir=workdir, model=self._model
                )
            except Preempted as stop:
                self._take(config, tokenizer, stop.model)
                raise KeyboardInterrupt(str(stop)) from None
        self._take(config, tokenizer, outcome.model)
        return self

    def _take(self, config: Config, tokenizer: Tokenizer, model: LM) -> None:
        self.config, self._model = config.base, model
        self._tokenizer, self._max_length = tokenizer, config.data.max_length

    def _corpus(self, train_data: psannLMDataPrep, val_data: psannLMDataPrep | None) -> Corpus:
        """The rows to train on, in the tokens that the model knows, if it knows any."""
        corpus = train_data.corpus
        if self._model is not None and self._tokenizer is None:
            raise RuntimeError(f"the model {_UNATTACHED}; train_data.tokenizer may be it")
        if self._tokenizer is not None:
            corpus = train_data.with_tokenizer(self._tokenizer)
        if val_data is None:
            return corpus
        val = val_data.as_validation_of(corpus)
        meta = dataclasses.replace(corpus.meta, val=val.meta.train)
        return dataclasses.replace(corpus, val=val.train, meta=meta)

    def generate(self, prompt: str, **options: Any) -> str:
        """The text that follows `prompt`, without it; options as in `generate_batch`.

        Raises:
          TypeError: an unknown option, or a prompt that is no str.
        """
        refuse_unknown("generate", options, GENERATE)
        if not isinstance(prompt, str):
            kind = type(prompt).__name__
            raise TypeError(f"prompt must be a str, not {kind}; for several call generate_batch")
        return self.generate_batch([prompt], **options)[0]

    def generate_batch(
        self,
        prompts: Iterable[str],
        *,
        max_new_tokens: int = 128,
        top_k: int | None = None,
        top_p: float | None = 0.9,
        temperature: float = 1.0,
        repetition_penalty: float | None = None,
        seed: int = 0,
        long_prompt: str = "error",
    ) -> list[str]:
        """The text that follows each prompt, in order; a row ends at its end-of-text token.

        Where a prompt can spell that token, as with "groundthink-char", it begins after the last
        one, as a document did in training.

        Args:
          temperature: 0 takes the most likely token.
          seed: the same seed draws the same text.
          long_prompt: for a prompt longer than the rows the model was trained on: "error",
            or "keep_last" to read its last tokens only.

        Raises:
          RuntimeError: the model has not been fitted or loaded, or has no tokenizer.
          ValueError: an argument out of range, or a prompt that is too long.
        """
        texts = [] if isinstance(prompts, str) else list(prompts)
        if isinstance(prompts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("prompts must be a list of str; for one prompt call generate")
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int):
            raise TypeError(f"max_new_tokens={max_new_tokens!r} must be a whole number")
        if self._model is None:
            raise RuntimeError("the model has no weights and tokenizer yet; call fit or load first")
        if self._tokenizer is None:
            raise RuntimeError(f"the model {_UNATTACHED}")
        sampling = Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        rows = [self._prompt(text, self._tokenizer, long_prompt) for text in texts]
        new = generate(
            self._model,
            rows,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            eos_id=self._tokenizer.eos_id,
            never=self._tokenizer.silent_ids,
            n_tokens=self._tokenizer.vocab_size,
        )
        decode_after = self._tokenizer.decode_after
        return [decode_after(row, ids) for row, ids in zip(rows, new, strict=True)]

    def _prompt(self, text: str, tokenizer: Tokenizer, long_prompt: str) -> list[int]:
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
        if tokenizer.ends_in_text and tokenizer.eos_id in ids:
            ended = len(ids) - ids[::-1].index(tokenizer.eos_id)
            ids = ids[ended:] or [tokenizer.bos_id]
        if long_prompt not in ("error", "keep_last"):
            raise ValueError(f"long_prompt={long_prompt!r} must be error or keep_last")
        if len(ids) > self._max_length and long_prompt == "error":
            raise ValueError(
                f"the prompt has {len(ids)} tokens, the model was trained on {self._max_length}; "
                "shorten it, or give long_prompt='keep_last'"
            )
        return ids[-self._max_length :]

    def attach_tokenizer(self, tokenizer: Tokenizer | str | os.PathLike) -> "psannLM":
        """Gives a model that came without one the tokenizer it was trained with.

        Args:
          tokenizer: as `psannLMDataPrep.tokenizer` or `data.load_tokenizer` give it, or its file.

        Raises:
          ValueError: no tokenizer is in the file, or it has more pieces than the model knows.
        """
        if isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = load_tokenizer(Path(tokenizer))
        if not isinstance(tokenizer, Tokenizer):
            found = type(tokenizer).__name__
            raise TypeError(f"tokenizer is {found}; give a psann_jax.data.Tokenizer, or its file")
        if self._model is not None or self.config.vocab_size is not None:
            check_vocabulary(self.config, tokenizer)
        self._tokenizer = tokenizer
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Writes a folder of config.json, model.safetensors and the tokenizer.

        Raises:
          RuntimeError: there are no weights yet.
          ValueError: the folder cannot be written, or is a run's or another's.
        """
        if self._model is None:
            raise RuntimeError("the model has no weights yet; call fit or load first")
        saved = SavedModel(self.config, self._model, self._tokenizer, self._max_length)
        save_folder(path, saved)

    @classmethod
    def load(
        cls, path: str | os.PathLike, *, step: str | int = "best", **options: Any
    ) -> "psannLM":
        """The model of a folder that `save` wrote, of a run's workdir at `step`, or of a .pt file
        of psannlm, which warns of what is computed otherwise here.

        Raises:
          TypeError: an unknown option.
          ValueError: the path holds none of these, something in it is damaged, or it has no steps.
        """
        refuse_unknown("load", options, ("path", "step"))
        saved = load_saved(path, step)
        for note in saved.notes:
            warnings.warn(f"{path}: {note}", stacklevel=2)
        lm = cls.__new__(cls)
        lm.config, lm._model, lm._tokenizer, lm._max_length, _ = saved
        return lm


def _check_data(name: str, data: object) -> None:
    if not isinstance(data, psannLMDataPrep):
        raise TypeError(f"{name} is {type(data).__name__}; give a psannLMDataPrep")
