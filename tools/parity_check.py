"""Model files to and from the original's PyTorch package: `.venv/bin/python tools/parity_check.py`.

In psannlm's own environment, made on the first run, psannlm saves small models of every network
(tools/peer_models.py). They are imported here, and their logits and tokens compared; exported
again, loaded by psannlm and compared once more. Then a fresh model of every base here goes to
psannlm. Where psannlm computes something else by design, its logits before and after are compared.
Prints a row a model; exits with 1 if logits differ by more than 1e-5, or a token does.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # float32 products; read when jax is imported

from pathlib import Path  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402

from flax import nnx  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from peer import ensure_venv  # noqa: E402

from psann_jax import bases  # noqa: E402
from psann_jax.interop.checkpoint import load_checkpoint  # noqa: E402
from psann_jax.interop.export import export  # noqa: E402
from psann_jax.interop.folder import SavedModel, load_folder, save_folder  # noqa: E402
from psann_jax.interop.psannlm_canonical import differences  # noqa: E402
from psann_jax.interop.psannlm_policies import OURS  # noqa: E402
from psann_jax.model import LM, trainable, with_trained  # noqa: E402

MOST = 1e-5
SIZES = {"vocab_size": 40, "d_model": 8, "n_layers": 2, "n_heads": 2, "d_mlp": 16}


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        peer("make", folder)
        theirs = {path.stem: imported(path) for path in sorted(folder.glob("*.pt"))}
        ours = {f"our {name}": fresh(name, seed) for seed, name in enumerate(OURS)}
        for name, saved in {**theirs, **ours}.items():
            export(folder / f"{name}.back.pt", saved)
        peer("check", folder)
        print(f"{'model':22} {'import':>9} {'export':>9} {'tokens':>7}")
        good = [row(folder, name, saved) for name, saved in {**theirs, **ours}.items()]
    print(f"{sum(good)} of {len(good)} models are as expected")
    return 0 if all(good) else 1


def peer(task: str, folder: Path) -> None:
    script = Path(__file__).with_name("peer_models.py")
    done = subprocess.run([ensure_venv(), script, task, folder], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script.name} {task} failed:\n{done.stderr[-4000:]}")


def imported(path: Path) -> SavedModel:
    """The model of psannlm's file, by way of a folder of ours."""
    save_folder(path.with_suffix(""), load_checkpoint(path))
    return load_folder(path.with_suffix(""))


def fresh(name: str, seed: int) -> SavedModel:
    """A model of ours, perturbed so that norms, biases and scales matter."""
    base = bases.get(name)(**SIZES, dtype="float32")
    model = LM(base, rngs=nnx.Rngs(seed))
    generator = np.random.default_rng(seed)
    noisy = jax.tree.map(
        lambda a: a + 0.1 * generator.standard_normal(a.shape, np.float32), trainable(model)
    )
    return SavedModel(base, with_trained(model, noisy), None, 16)


def row(folder: Path, name: str, saved: SavedModel) -> bool:
    """Prints how far a model's logits are from psannlm's, there and back."""
    back = dict(np.load(folder / f"{name}.back.npz"))
    source = folder / f"{name}.npz"
    there = dict(np.load(source)) if source.exists() else None
    logits = np.asarray(jax.jit(lambda m, ids: m(ids)[0])(saved.model, back["ids"]))
    other = bool(differences(saved.base))
    into = distance(logits, there["logits"]) if there else None
    out = distance(back["logits"], there["logits"] if there else logits)
    kept = tokens_kept(saved, there, back)
    good = (
        kept is not False
        and (other or (into or 0) <= MOST)
        and (other and not there or out <= MOST)
    )
    shown = "-" if into is None else f"{into:.1e}"
    said = {None: "-", True: "kept", False: "CHANGED"}[kept]
    note = "  psannlm computes another function, as import and export say" if other else ""
    print(f"{name:22} {shown:>9} {out:9.1e} {said:>7} {'' if good else '  FAILED'}{note}")
    return good


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def tokens_kept(saved: SavedModel, there: dict | None, back: dict) -> bool | None:
    """Whether a text has the same tokens in psannlm, here, and in psannlm again."""
    if there is None or saved.tokenizer is None:
        return None
    ours = saved.tokenizer.encode(str(there["text"]))
    return there["tokens"].tolist() == ours == back["tokens"].tolist()


if __name__ == "__main__":
    sys.exit(main())
