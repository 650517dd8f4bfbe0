"""A plain GPT-2 in PyTorch as a benchmark's other side; runs in the peer's environment.

The model is that of Radford et al. 2019: learned positions, LayerNorm before each sublayer, GELU,
a head that is the embedding. A request is as that of peer_psannlm.py's task "train", its config
d_model, n_layers, n_heads, d_mlp, vocab_size and length.
"""

from peer_child import request, serve
from peer_train import training
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_mlp: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, d_mlp), nn.GELU(approximate="tanh"), nn.Linear(d_mlp, d_model)
        )

    def forward(self, x):  # [B, T, D]
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.n_heads, -1)).unbind(-3)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [B, H, T, K]
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT2(nn.Module):
    def __init__(self, config: dict[str, int]):
        super().__init__()
        d_model = config["d_model"]
        self.tokens = nn.Embedding(config["vocab_size"], d_model)
        self.positions = nn.Embedding(config["length"], d_model)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        sizes = d_model, config["n_heads"], config["d_mlp"]
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config["n_layers"]))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens):  # [B, T] -> [B, T, V]
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return nn.functional.linear(self.norm(x), self.tokens.weight)


def main() -> None:
    asked = request()
    torch.set_num_threads(asked["threads"])
    serve(lambda: training(GPT2(asked["config"]), asked), {"torch": torch.__version__})


if __name__ == "__main__":
    main()
