"""The transformer as a tensor graph: one token in, logits out."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas.models.llama2.checkpoint import Quantized, Weight
from hamkaas.models.llama2.config import Config


def rotations(config: Config) -> NDArray[np.float32]:
    """The table of rotary embedding (arXiv:2104.09864): (cos, sin) of position * theta^(-2i/head_dim).

    Shape [max_positions, head_dim / 2, 2]; computed in float32, as llama2.c does.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / np.power(np.float32(config.rope_theta), exponents)
    angles = np.arange(config.max_positions, dtype=np.float32)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def build_step(config: Config, weights: Mapping[str, Weight]) -> hk.Tensor:
    """Logits [vocab_size] of the token that follows `token` at `position`.

    Inputs, all int64 [1]: `token`; `position`, its place in the context; `length` = position + 1. Keys and values of
    the positions before are states of the graph.
    """
    token = hk.InputTensor("token", "int64", [1])
    position = hk.InputTensor("position", "int64", [1])
    length = hk.InputTensor("length", "int64", [1])
    rotation = hk.ConstantTensor(rotations(config), "rotations").gather(position)  # [1, head_dim / 2, 2]

    def weight(name: str, rows: hk.Tensor | None = None) -> hk.Tensor:
        """A weight as float32, or some rows of it."""
        array = weights[name]
        if isinstance(array, Quantized):
            values = hk.ConstantTensor(array.values, name)
            scales = hk.ConstantTensor(array.scales, f"{name}.scales")
            return hk.dequantize(*(part if rows is None else part.gather(rows) for part in (values, scales)))
        tensor = hk.ConstantTensor(array, name)
        return tensor if rows is None else tensor.gather(rows)

    def linear(x: hk.Tensor, name: str) -> hk.Tensor:
        """x times the transpose of a matrix that is stored [out, in]."""
        return x @ weight(name).permute(1, 0)

    def rotate(x: hk.Tensor, heads: int) -> hk.Tensor:
        """Turns neighbouring pairs of each head by the position's angles: [heads, head_dim]."""
        pairs = x.reshape(heads, config.head_dim // 2, 2)
        return pairs.complex_hadamard_product(rotation).reshape(heads, config.head_dim)

    def cache(name: str, row: hk.Tensor) -> hk.Tensor:
        """The state of this name with the row of the current position: [max_positions, kv_heads, head_dim]."""
        shape = [config.max_positions, config.num_kv_heads, config.head_dim]
        state = hk.BufferTensor("float32", shape, name)
        return state.replace(row.reshape(1, *shape[1:]), position, length)

    x = weight("tok_embeddings", token).reshape(config.dim)
    for layer in (f"layers.{number}" for number in range(config.num_layers)):
        h = x.rms_norm(weight(f"{layer}.attention_norm"), config.norm_eps)
        query = rotate(linear(h, f"{layer}.wq"), config.num_heads)
        keys = cache(f"{layer}.keys", rotate(linear(h, f"{layer}.wk"), config.num_kv_heads))
        values = cache(f"{layer}.values", linear(h, f"{layer}.wv"))
        attended = query.attention(keys, values, length).reshape(config.dim)
        x = x + linear(attended, f"{layer}.wo")
        h = x.rms_norm(weight(f"{layer}.ffn_norm"), config.norm_eps)
        gated = linear(h, f"{layer}.w1").silu() * linear(h, f"{layer}.w3")
        x = x + linear(gated, f"{layer}.w2")
    x = x.rms_norm(weight("norm"), config.norm_eps)
    return linear(x, "tok_embeddings" if config.shared_classifier else "output")
