"""A llama model in plain numpy, all positions at once, in float64: the oracle of the tests of the runner's graphs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamkaas.models.llama2 import Config

Array = NDArray[Any]


def random_weights(config: Config, seed: int = 0) -> dict[str, Array]:
    """Weights whose activations are of order 1."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.standard_normal(shape) / np.sqrt(shape[-1]) if len(shape) > 1 else 1 + 0.1 * rng.random(shape)
        ).astype(np.float32)
        for name, shape in config.weight_shapes()
    }


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def logits(
    config: Config, weights: Mapping[str, Array], tokens: Sequence[int], *, halves: bool = False, divisors: Any = 1
) -> Array:
    """Logits after each token: [tokens, vocab_size]; `halves`: i and i + d / 2 of a head turn together."""
    w = {name: np.asarray(weight, np.float64) for name, weight in weights.items()}
    count, heads, kv_heads, d = len(tokens), config.num_heads, config.num_kv_heads, config.head_dim
    frequencies = config.rope_theta ** (-np.arange(0, d, 2) / d) / divisors
    turn = np.exp(1j * np.arange(count)[:, None] * frequencies)[:, None]  # [tokens, 1, d / 2]

    def norm(x: Array, weight: Array) -> Array:
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + config.norm_eps) * weight

    def rotated(x: Array, heads: int) -> Array:
        pairs = np.moveaxis(x.reshape(count, heads, 2, -1), 2, -1) if halves else x.reshape(count, heads, -1, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        # queries and keys alike: the order within a head does not matter from here on
        return np.stack([turned.real, turned.imag], axis=-1).reshape(count, heads, d)

    x = w["tok_embeddings"][list(tokens)]
    unseen = np.triu(np.full((count, count), -np.inf), 1)
    for layer in (f"layers.{number}." for number in range(config.num_layers)):
        h = norm(x, w[layer + "attention_norm"])
        q, k = rotated(h @ w[layer + "wq"].T, heads), rotated(h @ w[layer + "wk"].T, kv_heads)
        v = (h @ w[layer + "wv"].T).reshape(count, kv_heads, d)
        k, v = (np.repeat(cache, heads // kv_heads, axis=1) for cache in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d) + unseen
        x = x + np.einsum("hij,jhd->ihd", softmax(scores), v).reshape(count, -1) @ w[layer + "wo"].T
        h = norm(x, w[layer + "ffn_norm"])
        gate = h @ w[layer + "w1"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[layer + "w3"].T)) @ w[layer + "w2"].T
    return norm(x, w["norm"]) @ w["tok_embeddings" if config.shared_classifier else "output"].T
