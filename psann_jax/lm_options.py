"""The facade's argument names -> the fields of bases and configs. Each has an effect or fails."""

from collections.abc import Collection, Iterable, Mapping
import dataclasses
from typing import Any

import jax

from psann_jax import bases
from psann_jax.config import Config, MeshConfig
from psann_jax.data import DataConfig
from psann_jax.fields import are_numbers, from_tree, nearest
from psann_jax.interop.psannlm_config import ATTENTION_IMPLEMENTATIONS, WAVE_NAMES, sine_config
from psann_jax.interop.psannlm_geometry import SPARSE_NAMES, sparse_fields
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig

# psannlm's names of options that some bases lack -> the field here.
_OWN_NAMES = {"sine_params": "sine", "wave_replace": "wave", "wave_interleave": "wave"} | {
    name: "geometry" for name in SPARSE_NAMES
}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "none": "float32"}
_TRAIN = {
    "epochs": "epochs",
    "steps": "steps",
    "max_steps": "steps",
    "batch_tokens": "batch_tokens",
    "grad_accum_steps": "grad_accum_steps",
    "label_smoothing": "label_smoothing",
    "seed": "seed",
    "log_interval_steps": "log_interval_steps",
    "save_interval_steps": "save_interval_steps",
    "eval_interval_steps": "eval_interval_steps",
    "eval_max_batches": "eval_batches",
}
_OPTIMIZER = {
    "lr": "learning_rate",
    "min_lr": "min_lr",
    "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay",
    "eps": "eps",
    "grad_clip": "grad_clip",
    "offload": "offload",
}
_FIT = [*_TRAIN, *_OPTIMIZER, "amp", "betas", "grad_checkpoint", "checkpoint_dir", "ddp", "verbose"]

# Arguments of psannlm that have another place here.
_ELSEWHERE = {
    "train": "give its fields as arguments of fit",
    "resume_checkpoint": "fit goes on from the newest checkpoint of checkpoint_dir by itself",
    "map_location": "weights go to JAX's default device; JAX_PLATFORMS=cpu in the environment is "
    "the CPU",
    "fsdp_cpu_offload": "offload=True keeps Adam's moments in the host's memory",
    "learning_rate": "give lr",
    "steps_per_epoch": "give steps, which are those of the whole fit",
    "torch_compile": "every step is compiled",
    "optimizer": "it is AdamW; leave it out",
    "log_gpu_mem": "metrics have memory_bytes",
    "dataloader_num_workers": "rows are read ahead as they are; leave it out",
    "prefetch_factor": "rows are read ahead as they are; leave it out",
}

GENERATE = (
    "max_new_tokens",
    "top_k",
    "top_p",
    "temperature",
    "repetition_penalty",
    "seed",
    "long_prompt",
)


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises ValueError for a value that is none of those that the argument `name` takes."""
    if value not in tuple(choices):
        raise ValueError(
            f"{name}={value!r} must be one of {', '.join(choices)}{nearest(str(value), choices)}"
        )


def refuse_unknown(function: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises TypeError for a name that `function` does not take, with what is meant here."""
    for name in given:
        if name not in known:
            said = f"; {_ELSEWHERE[name]}" if name in _ELSEWHERE else nearest(name, known)
            raise TypeError(f"{function} has no argument {name!r}{said}")


def base_fields(base: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the base from psannLM's arguments; those that are None stay at their default.

    Raises:
      TypeError: an unknown option, or one that this base does not have.
    """
    known = {f.name for f in dataclasses.fields(bases.get(base))}
    fields = {k: v for k, v in {**given, **options}.items() if v is not None}
    if (rope := fields.pop("rope", None)) is not None:
        fields.setdefault("positional_encoding", "rope" if rope else "sinusoidal")
    if "positional_encoding" in fields:
        fields["positional_encoding"] = str(fields["positional_encoding"]).lower().strip()
    if "sine_params" in fields and "sine" in known:
        if "sine" in fields:
            raise TypeError("sine and sine_params set the same; give one of them")
        fields["sine"] = sine_config(fields.pop("sine_params"))
    if fields.get("mlp_activation") == "psann":  # psannlm's name of the sine
        fields["mlp_activation"] = "sine"
    check_choice("attn_impl", fields.pop("attn_impl", "auto"), ATTENTION_IMPLEMENTATIONS)
    if "wave" in known:
        fields |= _wave_mode(fields)
    if base == "geosparse":
        fields, sparse = sparse_fields(fields)
        fields |= sparse
    for theirs, ours in WAVE_NAMES.items():
        if theirs != ours and {theirs, ours} <= fields.keys():
            raise TypeError(f"{ours} and {theirs} set the same; give one of them")
    fields = {WAVE_NAMES.get(name, name): value for name, value in fields.items()}
    for name in fields:
        if name not in known:
            near = bases.elsewhere(_OWN_NAMES.get(name, name)) or nearest(
                name, sorted((known | set(WAVE_NAMES) | set(given)) - {name})
            )
            raise TypeError(f"psannLM(base={base!r}) has no argument {name!r}{near}")
    return fields


def _wave_mode(fields: dict[str, Any]) -> dict[str, str]:
    """wave_replace puts the wave in the MLP's place; wave_interleave=False turns it off."""
    replace, interleave = fields.pop("wave_replace", None), fields.pop("wave_interleave", None)
    if "wave" in fields and (replace, interleave) != (None, None):
        raise TypeError("wave and wave_replace or wave_interleave set the same; give one of them")
    if replace:
        return {"wave": "replace"}
    if interleave is not None:
        return {"wave": "interleave" if interleave else "off"}
    return {}


def fit_config(base: bases.Base, data: DataConfig, options: Mapping[str, Any]) -> Config:
    """The config of a fit.

    Raises:
      TypeError: an unknown option.
      ValueError: a value out of range.
    """
    options = {k: v for k, v in options.items() if v is not None}
    refuse_unknown("fit", options, _FIT)
    if {"steps", "max_steps"} <= options.keys():
        raise TypeError("steps and max_steps set the same; give one of them")
    train = {field: options[name] for name, field in _TRAIN.items() if name in options}
    optimizer = {field: options[name] for name, field in _OPTIMIZER.items() if name in options}
    if (betas := options.get("betas")) is not None:
        betas = tuple(betas) if isinstance(betas, Iterable) else betas
        if not are_numbers(betas, 2):
            raise ValueError(f"betas={betas!r} must be two numbers, as (0.9, 0.95)")
        optimizer["b1"], optimizer["b2"] = betas
    checked_train = from_tree(TrainConfig, train, "train.")
    least = checked_train.grad_accum_steps * data.max_length
    batch_tokens = max(checked_train.batch_tokens, least)
    remat, dtype = base.remat, base.dtype
    if "grad_checkpoint" in options:
        remat = "full" if flag("grad_checkpoint", options["grad_checkpoint"]) else "none"
    if "amp" in options:
        check_choice("amp", options["amp"], _DTYPES)
        dtype = _DTYPES[options["amp"]]
    return Config(
        base=dataclasses.replace(base, dtype=dtype, remat=remat),
        data=data,
        train=dataclasses.replace(checked_train, batch_tokens=batch_tokens),
        optimizer=from_tree(OptimizerConfig, optimizer, "optimizer."),
    )


def flag(name: str, value: Any) -> bool:
    """The value of an argument that is True or False; raises ValueError for any other."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")
    return value


def mesh_of(sharded: str) -> MeshConfig:
    """The mesh of fit's fsdp: its devices have the whole weights for off, parts for full_shard."""
    if sharded not in ("off", "full_shard"):
        raise ValueError(f"fsdp={sharded!r} must be off or full_shard")
    if sharded == "off":
        return MeshConfig()
    if jax.process_count() > 1:
        raise ValueError(
            f"fsdp={sharded!r} is for one process; of several, no one could save the model: train "
            "with python -m psann_jax.main and --config.mesh.fsdp=-1 --config.mesh.data=1"
        )
    return MeshConfig(data=1, fsdp=-1)


def devices_of(ddp: str) -> list[jax.Device]:
    """The devices of a fit: all of them for auto and on, one for off."""
    check_choice("ddp", ddp, ("auto", "on", "off"))
    return jax.devices()[:1] if ddp == "off" else jax.devices()
