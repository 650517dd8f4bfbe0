"""What is wrong in psannlm 2.0.1, the PyTorch original, and must not be wrong here.

Each test `test_dNN_...` of this folder fails if psann_jax had defect NN of the original:

  D1   the wave convolution pads both sides, so it reads the tokens after
  D2   its cached path normalises twice and pads the future: decoding is not the full forward
  D3   the spectral gate filters the whole window, and leaks the future; a step of one is blank
  D4   its convolution keeps the past in the module: two generations spoil each other
  D5   wave_replace drops the residual stream, or silently the MLP and the wave
  D6   psannLM drops the wave options and half of the sine's
  D7   a prompt gets an end-of-text token before it is continued
  D8   a batch goes on until all rows end at once, and returns text after the end
  D9   top-p drops the token that crosses p, top-k keeps all ties
  D10  the repetition penalty subtracts, by the count, and leaves the prompt out
  D11  packing loses windows and short texts; packed documents are not told apart
  D12  workers and ranks duplicate the data, and swallow every error
  D13  a tokenizer is fitted on nothing, and a run without a step exits with 0
  D14  the last rate is 0, remainders are lost, fewer steps run than planned, 2000 warm up
  D15  a resumed run begins its epoch anew and forgets its best
  D16  a second fit keeps the first one's options
  D17  a config file's training options are ignored
  D18  float16 gradients are clipped while they are scaled
  D19  micro-batches without targets give NaN, few targets weigh as many; packed examples attend
  D20  a foreign tokenizer's end of text is another id than the one that stops
  D21  byte-pair ids hold the specials twice, and decoding puts spaces between pieces
  D22  two of three tokenizers cannot be saved
  D23  sines, scales and norms decay; large starts overflow; ALiBi in bfloat16 loses distances
  D24  a given state may be ignored, generating ends training, texts that name files are opened
  D25  model files are unpickled, and may run anything
  D26  every decoded token costs a K x K mask; generate reads all again for each
  D27  mixed activations forget their layout; all sparse layers share one graph
  D28  checkpoints are written in place and never removed; fit always writes
"""

import functools
import json
from pathlib import Path

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases, psannLM, psannLMDataPrep
from psann_jax.model import LM, trainable, with_trained

GOLDEN = Path(__file__).parent.parent / "golden" / "psannlm"
VOCABULARY = 32
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
PREP = {"tokenizer": "char", "max_length": 16}
FIT = {"amp": "fp32", "ddp": "off", "verbose": False}
EPOCHS = {"epochs": 2, "batch_tokens": 256, "grad_accum_steps": 4, "log_interval_steps": 1}


@pytest.fixture(scope="session")
def tokens():
    """Two rows of 12 tokens."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (2, 12)).astype(np.int32)


@functools.cache
def _moved(make, name, **options):
    rng, model = np.random.default_rng(1), make(name, **options)
    weights = trainable(model)
    leaves, tree = jax.tree.flatten(weights)
    moved = [a + 0.3 * rng.standard_normal(a.shape).astype("f") for a in leaves]
    return with_trained(model, tree.unflatten(moved))


@pytest.fixture(scope="session")
def moved(tiny):
    """moved(base, ...): a tiny LM with every weight moved off its start, so that each matters."""
    return functools.partial(_moved, tiny)


@pytest.fixture(scope="session")
def forward():
    """forward(model, tokens, seq): all logits."""
    return jax.jit(lambda model, tokens, seq=None: model(tokens, seq)[0])


@pytest.fixture(scope="session")
def extend():
    """extend(model, tokens, state): logits of further tokens, and the state after them."""
    return jax.jit(lambda model, tokens, state: model(tokens, None, state))


@pytest.fixture(scope="session")
def constant():
    """constant(logits): a model that gives these logits after any token."""

    def make(logits: dict[int, float], vocab_size: int = VOCABULARY) -> LM:
        base = bases.get("transformer")(vocab_size=vocab_size, dtype="float32", **SIZES)
        model = LM(base, rngs=nnx.Rngs(0))
        kernel = np.full((base.d_model, vocab_size), -9.0, np.float32)
        for token, logit in logits.items():
            kernel[0, token] = logit
        one = np.eye(base.d_model, dtype=np.float32)[0]
        model.norm.scale[...], model.norm.bias[...] = jnp.zeros_like(one), jnp.asarray(one)
        model.head.kernel[...] = jnp.asarray(kernel)
        return model

    return make


@pytest.fixture(scope="session")
def data():
    """33 documents of their own rows."""
    return psannLMDataPrep([f"the wave {i}" for i in range(33)], pack_sequences=False, **PREP)


@pytest.fixture(scope="session")
def whole(data, tmp_path_factory):
    """A fit of two epochs, 16 rows a step in four micro-batches, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    lm = psannLM(base="respsann", **SIZES).fit(data, checkpoint_dir=folder, **EPOCHS, **FIT)
    return lm, folder


@pytest.fixture(scope="session")
def golden_data():
    """The original's rows of nine short texts."""
    return json.loads((GOLDEN / "data_public.json").read_text())
