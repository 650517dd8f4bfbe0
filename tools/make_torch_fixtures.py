"""Makes tests/golden/torch, files that torch itself wrote; runs in the peer's environment.

    ~/.cache/psann_jax/peer-venv/bin/python tools/make_torch_fixtures.py tests/golden/torch

Made with psannlm 2.0.1 and torch 2.13.0. The values of plain*.pt stand in
tests/interop/test_torch_file.py too.
"""

from collections import OrderedDict
from pathlib import Path
import random
import shutil
import sys
import tempfile
import warnings

import numpy as np
from peer_models import model_of, record, trained
import torch

MODELS = {  # name -> tokenizer
    "residual_rope": "simple",
    "residual_layer_norm": "simple",
    "residual_spectral": "simple",
    "wave_interleave": "simple",
    "transformer_alibi": "tokenizers",
    "sparse_local": "simple",
    "sparse_mixed": "simple",
}
DTYPES = ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def plain_tree() -> dict:
    """Containers and tensors of every kind that is read."""
    square = torch.arange(12.0).reshape(3, 4)
    return {
        "scalars": [None, True, False, -5, 300, 10**30, 2.5, "text \u2581", b"\x00\xff", b""],
        "containers": ((), (1, 2, 3, 4), [], {}, {1, 2}, OrderedDict(a=1), torch.Size([2, 3])),
        "transposed": square.t(),
        "tied": [square, square],
        "slice": torch.arange(10)[2:8:3],
        "expanded": torch.ones(1).expand(2, 3),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "state": torch.nn.LayerNorm(2).state_dict(),
        "dtypes": {name: torch.tensor([0, 1, 1]).to(getattr(torch, name)) for name in DTYPES},
    }


def legacy(folder: Path) -> None:
    """legacy.pt as psannlm before 2.0 saved a model: flat names, no schema, no tokenizer."""
    lm = model_of("wave_rope")
    sine = {"amp_init": 1.0, "freq_init": 1.0, "damp_init": 0.01}
    sine |= {"amp_init_std": 0.0, "freq_init_std": 0.0, "damp_init_std": 0.0, "trainable": True}
    sizes = {name: getattr(lm, name) for name in ("d_model", "n_layers", "n_heads", "d_mlp")}
    config = {"base": "waveresnet", **sizes, "vocab_size": None, "rope": True, "sine": sine}
    config |= {"positional_encoding": "rope", "overrides": {"dropout": 0.0}}
    tree = {"config": config, "state_dict": lm._model.state_dict(), "device": "cpu"}
    torch.save(tree, folder / "legacy.pt")
    record(lm, folder / "legacy.npz")


def main(folder: Path) -> None:
    random.seed(0)
    np.random.seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    for protocol in (2, 4):
        path = folder / f"plain_protocol_{protocol}.pt"
        torch.save(plain_tree(), path, pickle_protocol=protocol)
    old = {"w": torch.ones(2)}
    torch.save(old, folder / "before_1_6.pt", _use_new_zipfile_serialization=False)
    for name, tokenizer in MODELS.items():
        lm = model_of(name, tokenizer=tokenizer)
        lm.save(str(folder / f"{name}.pt"))
        record(lm, folder / f"{name}.npz")
    legacy(folder)
    with tempfile.TemporaryDirectory() as scratch:
        trained(Path(scratch))
        for name in ("final.pt", "final.npz"):
            shutil.copy(Path(scratch) / name, folder / f"trainer_{name}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(Path(sys.argv[1]))
