"""The text tower: a causal transformer over tokens, as in CLIP (Radford et al. 2021).

B = texts, T = tokens of the longest text, W = width. A text is read at its [END] token.
A token attends only to earlier tokens, so tokens after [END] change nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TextTransformer(nn.Module):
    """Token numbers [B, T] and the place of [END] [B] to features [B, W]."""

    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int):
        super().__init__()
        self.dim = width
        self.token = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.place, std=0.01)

    def forward(self, tokens: Tensor, end: Tensor) -> Tensor:
        x = self.token(tokens) + self.place[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        # [END] is read by a sum, whose gradient needs no atomic additions
        read = F.one_hot(end, tokens.shape[1]).to(x.dtype)
        return self.norm((x * read[:, :, None]).sum(1))


class Block(nn.Module):
    """Attention and a two-layer network, each after a layer norm and added to its input."""

    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        # CLIP's initial scales. Those of `joined` and `narrow` fall with the number of layers, so
        # that the sum of what all blocks add does not grow with it
        nn.init.normal_(self.attention.weight, std=width**-0.5)
        nn.init.normal_(self.joined.weight, std=(2 * layers * width) ** -0.5)
        nn.init.normal_(self.widen.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.narrow.weight, std=(2 * layers * width) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        parts = self.attention(self.first(x)).view(b, t, 3, self.heads, w // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.joined(seen.transpose(1, 2).reshape(b, t, w))
        return x + self.narrow(F.gelu(self.widen(self.second(x))))
