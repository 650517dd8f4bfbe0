"""Benchmarks against psannlm on PyTorch: the train step and decoding, in turns."""

import argparse
from functools import partial
from typing import Any

from flax import nnx
import numpy as np
from peer import Peer
from timing import ratio, summary, take_turns, timed

from psann_jax import sharding
from psann_jax.bases import ResPSANN
from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling
from psann_jax.interop import psannlm
from psann_jax.model import LM
from psann_jax.run.environment import KEEP_MEMORY
from psann_jax.seq import Batch
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import init_state
from psann_jax.train.step import jit_train_step

SIZES = ("d_model", "n_layers", "n_heads", "d_mlp", "vocab_size", "length", "batch")


def train(args: argparse.Namespace) -> dict[str, Any]:
    """The full train step against psannlm's, from the same weights on the same batch."""
    state, step, tokens = train_setup(args)
    weights = psannlm.to_state(state.model)
    losses = []

    def ours():
        nonlocal state
        state, metrics = step(state, packed(tokens))
        losses.append(float(metrics["loss"]))
        return state

    ours()
    options = peer_options(args) | {
        "tokens": tokens.tolist(),
        "compile": args.compile,
        "learning_rate": args.learning_rate,
    }
    with Peer("train", weights, **options) as peer:
        seconds = take_turns({"psann_jax": timed(ours), "psannlm": peer.run}, args.n, args.warmup)
        agreement = {"psann_jax": losses[-1], "psannlm": peer.last["loss"]}
    return against_peer(seconds, args.batch * args.length, peer.info) | {"last_loss": agreement}


def train_setup(args: argparse.Namespace):
    """A fresh TrainState, its jitted step, and tokens [B, T + 1]."""
    optimizer = make_optimizer(
        # psannlm decays every parameter; a constant rate, so that losses can be compared.
        OptimizerConfig(
            learning_rate=args.learning_rate,
            min_lr=args.learning_rate,
            warmup_steps=0,
            decay="all",
        ),
        total_steps=1000,
    )
    make_model = partial(make_lm, args)
    state, where = init_state(make_model, optimizer, sharding.make_mesh(), seed=0)
    shape = (args.batch, args.length + 1)
    tokens = np.random.default_rng(0).integers(0, args.vocab_size, shape)
    return state, jit_train_step(optimizer, where), tokens


def make_lm(args: argparse.Namespace, rngs: nnx.Rngs) -> LM:
    return LM(base_of(args), rngs=rngs)


def base_of(args: argparse.Namespace) -> ResPSANN:
    sizes = {name: getattr(args, name) for name in SIZES[:5]}
    return ResPSANN(**sizes, dtype=args.dtype)


def packed(tokens: np.ndarray) -> Batch:
    """tokens [B, T + 1] as one micro-batch of whole documents, [1, B, T]."""
    inputs, targets = (t.astype(np.int32)[None] for t in (tokens[:, :-1], tokens[:, 1:]))
    positions = np.broadcast_to(np.arange(inputs.shape[-1], dtype=np.int32), inputs.shape)
    weights = np.ones(inputs.shape, np.float32)
    return Batch(inputs, targets, weights, positions, np.ones_like(inputs))


def peer_options(args: argparse.Namespace) -> dict[str, Any]:
    """What both of the peer's tasks need."""
    sizes = {name: getattr(args, name) for name in SIZES[:5]}
    return {
        "config": sizes | {"positional_encoding": "rope", "attn_impl": args.attention},
        "threads": args.threads,
        "dtype": args.dtype,
        "mallopt": KEEP_MEMORY if args.keep_memory else (),
    }


def against_peer(seconds: dict[str, list[float]], tokens: int, info: dict) -> dict[str, Any]:
    return {
        "results": {name: summary(s, tokens) for name, s in seconds.items()},
        "ratio": ratio(seconds["psannlm"], seconds["psann_jax"]),
        "peer": {name: info[name] for name in ("torch", "psannlm", "first_run_s")},
    }


def decode(args: argparse.Namespace) -> dict[str, Any]:
    """Greedy decoding of a batch with a cache, against psannlm's generate_batch."""
    model = make_lm(args, nnx.Rngs(0))
    shape = (args.batch, args.length)
    prompts = np.random.default_rng(0).integers(0, args.vocab_size, shape).tolist()
    tokens: dict[str, list[list[int]]] = {}

    def ours():
        greedy = Sampling(temperature=0.0)
        tokens["ours"] = generate(model, prompts, max_new_tokens=args.new_tokens, sampling=greedy)

    ours()
    options = peer_options(args) | {"prompts": prompts, "new_tokens": args.new_tokens}
    with Peer("decode", psannlm.to_state(model), **options) as peer:
        seconds = take_turns({"psann_jax": timed(ours), "psannlm": peer.run}, args.n, args.warmup)
        same = float(np.mean(np.asarray(tokens["ours"]) == np.asarray(peer.last["tokens"])))
    return against_peer(seconds, args.batch * args.new_tokens, peer.info) | {"same_tokens": same}
