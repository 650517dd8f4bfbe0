"""The original's PyTorch package as a benchmark's other side; runs in the peer's environment.

A request has task ("train", "forward" or "decode"), config (psannlm's builder arguments), threads,
device, dtype, compile, mallopt (pairs of glibc's parameters); train: tokens [B, T + 1] and
learning_rate; forward: tokens [B, T]; decode: prompts [B, T] and new_tokens.
"""

from importlib.metadata import version

import numpy as np
from peer_child import Run, request, serve
from peer_train import training
import torch


def main() -> None:
    asked = request()
    torch.set_num_threads(asked["threads"])
    tasks = {"train": _training, "forward": _forward, "decode": _decoding}
    versions = {"torch": torch.__version__, "psannlm": version("psannlm")}
    serve(lambda: tasks[asked["task"]](asked), versions)


def _training(asked: dict) -> Run:
    return training(_with_weights(_build(asked["config"]), asked["weights"]), asked)


def _forward(asked: dict) -> Run:
    """Logits of every token, without a gradient."""
    model = _with_weights(_build(asked["config"]), asked["weights"]).to(asked["device"]).eval()
    tokens = torch.tensor(asked["tokens"], device=asked["device"])
    if asked["compile"]:
        model = torch.compile(model)
    half = asked["dtype"] == "bfloat16"

    def run() -> dict:
        with torch.no_grad(), torch.autocast(asked["device"], torch.bfloat16, enabled=half):
            return {"logit": model(tokens)[0, 0, 0]}

    return run


def _decoding(asked: dict) -> Run:
    """Greedy decoding of all prompts by psannlm's own batched generation with its cache."""
    from psannlm import PSANNLM

    lm = PSANNLM(config=_lm_config(asked["config"]), device=asked["device"])
    model = lm._ensure_model(asked["config"]["vocab_size"])
    _with_weights(model, asked["weights"])
    lm._tokenizer = TokenIds()
    prompts = [" ".join(map(str, row)) for row in asked["prompts"]]
    options = {"max_new_tokens": asked["new_tokens"], "temperature": 0.0, "top_p": None}

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


def _lm_config(config: dict):
    from psannlm.architectures.compat import legacy_lm_config

    return legacy_lm_config("respsann", config, warn=False)


def _build(config: dict):
    from psannlm import build_lm_model

    return build_lm_model(_lm_config(config)).model


def _with_weights(model, path: str):
    with np.load(path) as arrays:
        model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return model


if __name__ == "__main__":
    main()
