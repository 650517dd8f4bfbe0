"""The original's PyTorch package as a benchmark's other side; runs in the peer's environment.

Reads one JSON argument: task ("train" or "decode"), weights (an .npz under psannlm's names),
config (psannlm's builder arguments), threads, dtype, mallopt (pairs of glibc's parameters);
train: tokens [B, T + 1], compile, learning_rate; decode: prompts [B, T], new_tokens.
Then answers every line of stdin with one run, and one line of JSON.
"""

from collections.abc import Callable
import ctypes
from importlib.metadata import version
import json
import os
import sys
import time
import warnings

import numpy as np


def main() -> None:
    warnings.filterwarnings("ignore")
    request = json.loads(sys.argv[1])
    os.environ["OMP_NUM_THREADS"] = str(request["threads"])  # read when torch is imported
    for parameter, value in request["mallopt"]:
        ctypes.CDLL(None).mallopt(parameter, value)
    import torch

    torch.set_num_threads(request["threads"])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # psannlm prints; stdout is for replies alone
    run = {"train": training, "decode": decoding}[request["task"]](torch, request)
    start = time.perf_counter()
    first = run()
    ready = {"first_run_s": time.perf_counter() - start, **first}
    ready |= {"torch": torch.__version__, "psannlm": version("psannlm")}
    print(json.dumps(ready), file=replies, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        reply = run()
        reply["seconds"] = time.perf_counter() - start
        print(json.dumps(reply), file=replies, flush=True)


def training(torch, request: dict) -> Callable[[], dict]:
    """A full step: forward, cross-entropy, backward, clip to norm 1, AdamW."""
    model = with_weights(torch, build(request["config"]), request["weights"]).train()
    tokens = torch.tensor(request["tokens"])
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)
    options = {"lr": request["learning_rate"], "betas": (0.9, 0.95), "weight_decay": 0.01}
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    half = request["dtype"] == "bfloat16"

    def loss_of(inputs, targets):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = model(inputs)
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)

    if request["compile"]:
        loss_of = torch.compile(loss_of)

    def step() -> dict:
        loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.item()}

    return step


def decoding(torch, request: dict) -> Callable[[], dict]:
    """Greedy decoding of all prompts by psannlm's own batched generation with its cache."""
    from psannlm import PSANNLM

    lm = PSANNLM(config=lm_config(request["config"]), device="cpu")
    model = lm._ensure_model(request["config"]["vocab_size"])
    with_weights(torch, model, request["weights"])
    lm._tokenizer = TokenIds()
    prompts = [" ".join(map(str, row)) for row in request["prompts"]]
    options = {"max_new_tokens": request["new_tokens"], "temperature": 0.0, "top_p": None}

    def generate() -> dict:
        texts = lm.generate_batch(prompts, **options)
        return {"tokens": [[int(t) for t in text.split()] for text in texts]}

    return generate


class TokenIds:
    """A tokenizer of texts that are token ids; no token ends a text."""

    eos_id = -1

    def encode(self, text: str, add_specials: bool = True) -> list[int]:
        return [int(t) for t in text.split()]

    def decode(self, ids: list[int], skip_specials: bool = True) -> str:
        return " ".join(map(str, ids))


def lm_config(config: dict):
    from psannlm.architectures.compat import legacy_lm_config

    return legacy_lm_config("respsann", config, warn=False)


def build(config: dict):
    from psannlm import build_lm_model

    return build_lm_model(lm_config(config)).model


def with_weights(torch, model, path: str):
    with np.load(path) as arrays:
        model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return model


if __name__ == "__main__":
    main()
