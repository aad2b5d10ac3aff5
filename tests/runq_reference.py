"""runq.c of llama2.c (commit 350e04f) in numpy, one token at a time: float32, and sums in the order of the program.

What goes into a matrix product is rounded to int8 there. Without that it is the same model in float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamkaas.models.llama2 import Config, Quantized, Weight

Array = NDArray[Any]
F32 = np.float32


def dequantized(weight: Weight) -> Array:
    """The numbers of a weight, in float64 if it is quantized."""
    if not isinstance(weight, Quantized):
        return weight
    group = weight.values.shape[-1] // weight.scales.shape[-1]
    return weight.values * np.repeat(weight.scales.astype(np.float64), group, axis=-1)


def quantized(x: Array, group: int) -> tuple[Array, Array]:
    """`quantize`: int8 numbers [groups, group], halves rounded away from zero, and scales [groups]."""
    groups = x.reshape(-1, group)
    scales = np.abs(groups).max(axis=1) / F32(127)
    numbers = (groups / np.where(scales == 0, F32(1), scales)[:, None]).astype(np.float64)
    return (np.sign(numbers) * np.floor(np.abs(numbers) + 0.5)).astype(np.int32), scales


def in_order(x: Array, axis: int = -1) -> Array:
    """The sum along an axis, one addition after the other."""
    return np.add.accumulate(x, axis=axis, dtype=F32).take(-1, axis=axis)


def rounded(function: Callable[[Array], Array], x: Array) -> Array:
    """A function of float32 numbers, as exact as float32 can say: what the functions of libm give."""
    return function(x.astype(np.float64)).astype(F32)


class Runq:
    """A model with a cache. `rounds`: whether activations are rounded to int8."""

    def __init__(self, config: Config, weights: Mapping[str, Weight], group: int, *, rounds: bool):
        self.config, self.weights, self.group, self.rounds = config, weights, group, rounds
        shape = (config.num_layers, config.max_positions, config.num_kv_heads, config.head_dim)
        self.keys, self.values = np.zeros(shape, F32), np.zeros(shape, F32)
        exponents = np.arange(0, config.head_dim, 2).astype(F32) / F32(config.head_dim)
        self.frequencies = F32(1) / rounded(lambda x: config.rope_theta**x, exponents)

    def linear(self, x: Array, name: str) -> Array:
        """`matmul`: integers within a group, float32 from group to group."""
        weight = self.weights[name]
        assert isinstance(weight, Quantized)
        rows = weight.values.astype(np.int32).reshape(len(weight.values), -1, self.group)
        if not self.rounds:
            return in_order((rows * x.reshape(-1, self.group)).sum(-1, dtype=F32) * weight.scales)
        numbers, scales = quantized(x, self.group)
        return in_order((rows * numbers).sum(-1).astype(F32) * weight.scales * scales)

    def norm(self, x: Array, name: str) -> Array:
        """`rmsnorm`"""
        scale = F32(1) / np.sqrt(in_order(x * x) / F32(len(x)) + F32(self.config.norm_eps))
        return self.weights[name] * (scale * x)  # type: ignore[operator]

    def rotated(self, x: Array, position: int) -> Array:
        """Heads [heads, head_dim] of a vector, turned."""
        angles = F32(position) * self.frequencies
        cos, sin = rounded(np.cos, angles), rounded(np.sin, angles)
        a, b = np.moveaxis(x.reshape(-1, len(angles), 2), -1, 0)
        return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(-1, self.config.head_dim)

    def attention(self, layer: int, query: Array, count: int) -> Array:
        """The heads' sums of the values of `count` positions, as one vector."""
        repeats = self.config.num_heads // self.config.num_kv_heads
        keys, values = (np.repeat(x[layer, :count], repeats, axis=1) for x in (self.keys, self.values))
        scores = in_order(query * keys) / np.sqrt(F32(self.config.head_dim))  # [positions, heads]
        weights = rounded(np.exp, scores - scores.max(axis=0))
        weights = weights / in_order(weights, axis=0)
        return in_order(weights[..., None] * values, axis=0).reshape(-1)

    def step(self, token: int, position: int) -> Array:
        """`forward`: the logits [vocab_size] after a token."""
        x = dequantized(self.weights["tok_embeddings"])[token].astype(F32)
        for number in range(self.config.num_layers):
            layer = f"layers.{number}."
            h = self.norm(x, layer + "attention_norm")
            query = self.rotated(self.linear(h, layer + "wq"), position)
            self.keys[number, position] = self.rotated(self.linear(h, layer + "wk"), position)
            self.values[number, position] = self.linear(h, layer + "wv").reshape(-1, self.config.head_dim)
            x = x + self.linear(self.attention(number, query, position + 1), layer + "wo")
            h = self.norm(x, layer + "ffn_norm")
            gate, up = self.linear(h, layer + "w1"), self.linear(h, layer + "w3")
            x = x + self.linear(gate * (F32(1) / (F32(1) + rounded(np.exp, -gate))) * up, layer + "w2")
        return self.linear(self.norm(x, "norm"), "tok_embeddings" if self.config.shared_classifier else "output")
