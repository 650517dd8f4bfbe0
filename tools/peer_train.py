"""A train step of any PyTorch model of tokens; runs in the peer's environment."""

from peer_child import Run
import torch


def training(model: torch.nn.Module, asked: dict) -> Run:
    """A full step: forward, cross-entropy, backward, clip to norm 1, AdamW.

    `asked` has device, dtype, compile, learning_rate, and tokens [B, T + 1].
    """
    device = asked["device"]
    model = model.to(device).train()
    tokens = torch.tensor(asked["tokens"], device=device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)
    options = {"lr": asked["learning_rate"], "betas": (0.9, 0.95), "weight_decay": 0.01}
    fused = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.AdamW(model.parameters(), **options, **fused)
    half = asked["dtype"] == "bfloat16"

    def loss_of(inputs, targets):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            logits = model(inputs)
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)

    if asked["compile"]:
        loss_of = torch.compile(loss_of)

    def step() -> dict:
        loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.detach()}

    return step
