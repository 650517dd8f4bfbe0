"""Small models of the original's PyTorch package and what they compute; runs in its environment.

    python tools/peer_models.py make FOLDER     # NAME.pt and NAME.npz of every model below
    python tools/peer_models.py check FOLDER    # NAME.back.npz of every NAME.back.pt

An .npz holds ids [B, T], logits [B, T, V], a text, and its tokens, none without a tokenizer.
The weights are drawn and then perturbed, so that norms, biases and scales matter.
"""

from pathlib import Path
import random
import sys
import warnings

import numpy as np
import torch

TEXTS = ["a sine wave rises, falls and fades", "the damped wave turns once more"] * 8
SIZES = {"d_model": 8, "n_layers": 2, "n_heads": 2, "d_mlp": 16}
WAVE = {"temporal": {"mode": "interleave", "kernel_size": 3, "dilation_growth": 2}}
SPECTRAL = {"spectral": {"k_fft": 8, "init": 0.3, "strength": 0.7}}
# What of psannlm's LMConfig differs from its defaults; "kind" and policies are the architecture's.
MODELS = {
    "residual_rope": {"kind": "residual"},
    "residual_alibi": {"kind": "residual", "positional_encoding": "alibi", "n_heads": 4},
    "residual_sinusoidal": {"kind": "residual", "positional_encoding": "sinusoidal"},
    "residual_gelu": {"kind": "residual", "activation": {"kind": "gelu"}},
    "residual_sdpa": {"kind": "residual", "attention_implementation": "sdpa"},
    "residual_sine": {
        "kind": "residual",
        "activation": {
            "kind": "psann",
            "frequency_init": 1.5,
            "decay_init": 0.2,
            "decay_mode": "relu",
            "learnable": ["frequency"],
            "bounds": {"amplitude": [0.8, None], "decay": [None, 0.3]},
        },
        "activation_initialization": {"frequency_std": 0.2, "amplitude_range": [0.5, 1.5]},
    },
    "residual_layer_norm": {"kind": "residual", "residual": {"norm": "layer", "alpha_init": 0.5}},
    "residual_no_norm": {"kind": "residual", "residual": {"norm": "none", "alpha_init": 1.0}},
    "residual_spectral": {"kind": "residual", **SPECTRAL},
    "residual_fourier": {
        "kind": "residual",
        "spectral": {"k_fft": 8, "gate_type": "fourier-features", "groups": "full"},
    },
    "wave_rope": {"kind": "wave"},
    "wave_alibi": {"kind": "wave", "positional_encoding": "alibi"},
    "wave_one_tap": {"kind": "wave", "temporal": {"mode": "interleave", "kernel_size": 1}},
    "wave_interleave": {"kind": "wave", **WAVE},
    "wave_replace": {"kind": "wave", "temporal": {"mode": "replace", "kernel_size": 1}},
    "wave_attention_only": {"kind": "wave", "temporal": {"mode": "attention-only"}},
    "transformer_rope": {"kind": "transformer"},
    "transformer_alibi": {"kind": "transformer", "positional_encoding": "alibi"},
    "transformer_relu": {
        "kind": "transformer",
        "positional_encoding": "sinusoidal",
        "activation": {"kind": "relu"},
    },
    "sparse_local": {"kind": "geometric-sparse", "geometry": {"k": 5, "seed": 3}},
    "sparse_hash": {
        "kind": "geometric-sparse",
        "positional_encoding": "alibi",
        "geometry": {"k": 4, "pattern": "hash", "seed": 5, "compute_mode": "scatter"},
    },
    "sparse_deep": {
        "kind": "geometric-sparse",
        "geometry": {"k": 7, "radius": 2, "wrap_mode": "wrap", "bias": False, "shape": [2, 8]},
        "geometry_execution": {"depth": 2},
        "residual": {"norm": "none", "alpha_init": 0.5},
        "activation": {"kind": "gelu"},
    },
    "sparse_mixed": {
        "kind": "geometric-sparse",
        "geometry": {"pattern": "random", "seed": 2},
        "activation": {
            "kind": "mixed",
            "decay_init": 0.01,
            "activation_types": ["psann", "relu"],
            "activation_ratios": [0.5, 0.5],
            "mix_seed": 2,
        },
    },
}
_TOKENIZERS = {"transformer_alibi": "tokenizers", "residual_alibi": "sentencepiece"}
_OUTSIDE = (*SIZES, "positional_encoding", "attention_implementation")
_IDS, _ROWS, _LENGTH = 7, 2, 12  # seed, B, T


def config_of(name: str):
    """psannlm's LMConfig of a model above, its vocabulary open."""
    from psannlm.architectures.config import LMArchitectureConfig, LMConfig

    model = MODELS[name]
    outside = {key: model[key] for key in _OUTSIDE if key in model}
    inside = {key: value for key, value in model.items() if key not in _OUTSIDE and key != "kind"}
    make = getattr(LMArchitectureConfig, model["kind"].replace("-", "_"))
    return LMConfig(**{**SIZES, **outside}, architecture=make(**inside))


def data_of(tokenizer: str = "simple"):
    from psannlm import PSANNLMDataPrep

    return PSANNLMDataPrep(TEXTS, tokenizer=tokenizer, max_length=16)


def model_of(name: str, seed: int = 0, tokenizer: str = "simple"):
    """A PSANNLM with perturbed weights and a tokenizer of TEXTS."""
    from psannlm import PSANNLM

    torch.manual_seed(seed)
    random.seed(seed)
    data = data_of(tokenizer)
    lm = PSANNLM(config=config_of(name), device="cpu")
    network = lm._ensure_model(data.vocab_size)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    lm.attach_tokenizer(data.tokenizer)
    return lm


def record(lm, path: Path) -> None:
    """Writes the logits of random ids, and the tokens of a text."""
    ids = np.random.default_rng(_IDS).integers(0, lm.vocab_size, (_ROWS, _LENGTH))
    with torch.no_grad():
        logits = lm._model.eval()(torch.from_numpy(ids)).numpy()
    tokens = lm._tokenizer.encode(TEXTS[0], add_specials=False) if lm._tokenizer else []
    arrays = {"ids": ids.astype(np.int32), "tokens": np.array(tokens, np.int32)}
    np.savez(path, logits=logits, text=np.array(TEXTS[0]), **arrays)


def make(folder: Path) -> None:
    for name in MODELS:
        lm = model_of(name, tokenizer=_TOKENIZERS.get(name, "simple"))
        lm.save(str(folder / f"{name}.pt"))
        record(lm, folder / f"{name}.npz")
    trained(folder)


def trained(folder: Path) -> None:
    """final.pt as psannlm's trainer leaves it, and final.npz."""
    lm = model_of("residual_rope")
    options = {"batch_tokens": 64, "steps_per_epoch": 2, "warmup_steps": 1, "amp": "fp32"}
    options |= {"dataloader_num_workers": 0, "save_interval_steps": 100, "lr": 1e-2}
    lm.fit(data_of(), train={**options, "checkpoint_dir": str(folder)})
    record(lm, folder / "final.npz")


def check(folder: Path) -> None:
    from psannlm import PSANNLM

    for path in sorted(folder.glob("*.back.pt")):
        record(PSANNLM.load(str(path), map_location="cpu"), path.with_suffix(".npz"))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
