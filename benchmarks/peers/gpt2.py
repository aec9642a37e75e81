"""A plain compiled GPT of the public baseline's shape: an afternoon's work, 124 M at 12 x 768 x 50,304.

Learned positions, LayerNorm, GELU of four times the width, full attention by SDPA, tied head, cross-entropy on all
logits. Settings (peer.py): bf16 autocast over fp32 weights, torch.compile of the whole model, fused AdamW, clipping.
Vocabulary, width, depth, heads and positions are those of the case. Run: rows.py does.
"""

from peer import Case, train


def build(config):
    import torch
    from torch import nn
    from torch.nn import functional as F

    width, heads = config.hidden_size, config.num_attention_heads

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).flatten(2))
            return x + self.down(F.gelu(self.up(self.feed_norm(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(config.vocab_size, width)
            self.positions = nn.Embedding(config.max_position_embeddings, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(config.num_hidden_layers)))
            self.norm = nn.LayerNorm(width)
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, ids, targets):
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
            logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
            return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return Gpt()


def main() -> None:
    case = Case()
    import torch

    torch.manual_seed(1)
    config = case.config
    products = 12 * config.num_hidden_layers * config.hidden_size**2 + config.vocab_size * config.hidden_size
    attention = config.num_hidden_layers * config.hidden_size * case.length
    train(case, build(config), lambda model, ids, targets: model(ids, targets), 6.0 * (products + attention))


if __name__ == "__main__":
    main()
