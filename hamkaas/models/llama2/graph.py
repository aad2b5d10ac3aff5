"""The transformer as tensor graphs: one token in, or a chunk of them, logits out."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas.models.llama2.checkpoint import Quantized, Weight
from hamkaas.models.llama2.config import Config

STEP = "step"
"""The name of the graph of one token."""

CHUNK = "chunk"
"""The name of the graph of several tokens."""

START, NEXT = "start", "next"
"""The names of the graphs of generation without the host; see `Transformer.decode`."""


def rotations(config: Config) -> NDArray[np.float32]:
    """The table of rotary embedding (arXiv:2104.09864): (cos, sin) of position * theta^(-2i/head_dim) / divisor.

    Shape [max_positions, head_dim / 2, 2]; computed in float32, as llama2.c does.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / np.power(np.float32(config.rope_theta), exponents)
    if config.rope_divisors:
        frequencies = frequencies / np.array(config.rope_divisors, np.float32)
    angles = np.arange(config.max_positions, dtype=np.float32)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def build_step(config: Config, weights: Mapping[str, Weight]) -> hk.Tensor:
    """Logits [vocab_size] of the token that follows `token` at `position`.

    Inputs, all int64 [1]: `token`; `position`, its place in the context; `length` = position + 1. Keys and values of
    the positions before are states of the graph.
    """
    return Transformer(config, weights).step()


def build_chunk(config: Config, weights: Mapping[str, Weight], size: int) -> hk.Tensor:
    """Logits [vocab_size] of what follows a chunk of `size` tokens; see `Transformer.chunk` for the inputs."""
    return Transformer(config, weights).chunk(size)


def build_graphs(
    config: Config, weights: Mapping[str, Weight], size: int, cache: str = "float32"
) -> dict[str, hk.Tensor]:
    """The graphs "step" and, unless `size` is 0, "chunk", over the same weights and states."""
    transformer = Transformer(config, weights, cache)
    return {STEP: transformer.step()} | ({CHUNK: transformer.chunk(size)} if size else {})


def build_burst_graphs(
    config: Config, weights: Mapping[str, Weight], size: int, cache: str = "float32", *, sampled: bool
) -> dict[str, hk.Tensor | Sequence[hk.Tensor]]:
    """The graphs of `Transformer.decode` and, unless `size` is 0, "chunk", over the same weights and states."""
    transformer = Transformer(config, weights, cache)
    return transformer.decode(sampled=sampled) | ({CHUNK: transformer.chunk(size)} if size else {})


def scales_name(weight: str) -> str:
    """The name of the scales of a quantized weight."""
    return f"{weight}.scales"


class Transformer:
    """Weights and states of a model. Graphs that come from one transformer share them."""

    def __init__(self, config: Config, weights: Mapping[str, Weight], cache: str = "float32"):
        """`cache` is what keys and values are stored as: "float32", "float16" or "bfloat16"."""
        self.config = config
        self._weights = weights
        self._known: dict[str, Sequence[hk.Tensor]] = {}
        self._rotations = hk.ConstantTensor(rotations(config), "rotations")
        shape = [config.max_positions, config.num_kv_heads, config.head_dim]
        names = [f"layers.{layer}.{kind}" for layer in range(config.num_layers) for kind in ("keys", "values")]
        self._cache = cache
        self._states = {name: hk.BufferTensor(cache, shape, name) for name in names}

    def step(self) -> hk.Tensor:
        """See `build_step`."""
        return self._step(*(hk.InputTensor(name, "int64", [1]) for name in ("token", "position", "length")))

    def _step(self, token: hk.Tensor, position: hk.Tensor, length: hk.Tensor) -> hk.Tensor:
        x = self._weight("tok_embeddings", token).reshape(self.config.dim)
        return self._logits(self._layers(x, _Place(self, 1, position, position, length)))

    def decode(self, *, sampled: bool = False) -> dict[str, hk.Tensor | Sequence[hk.Tensor]]:
        """Generation without the host: the graphs "start" and "next".

        "start" puts an input `token` at an input `position` (int64 [1] each), from where generation goes on. "next"
        takes no input, computes what follows and moves on by one position. Both give the tokens so far, int64
        [max_positions + 1], and the position, int64 [1]; "next" gives the logits too, [vocab_size]. Behind the last
        position of the context "next" is a `RuntimeFault`.

        Generation is greedy, unless it is `sampled`: "start" then takes, all float32, `temperature` and `top_p` [1] and
        `coins` [max_positions], the number that decides what follows each position; see `hamkaas.sample`.
        """
        count = self.config.max_positions
        tokens = hk.BufferTensor("int64", [count + 1], "tokens")
        place = hk.BufferTensor("int64", [1], "position")
        successor = hk.ConstantTensor(np.arange(1, count + 2, dtype=np.int64), "successor")
        token, position = (hk.InputTensor(name, "int64", [1]) for name in ("token", "position"))
        start = [tokens.replace(token, position, successor.gather(position)), place.replace(position, 0, 1)]
        length = successor.gather(place)
        logits = self._step(tokens.gather(place), place, length)
        if sampled:
            temperature, top_p, coins = (
                hk.BufferTensor("float32", [size], name)
                for name, size in (("temperature", 1), ("top_p", 1), ("coins", count))
            )
            for state in (temperature, top_p, coins):
                start.append(state.replace(hk.InputTensor(str(state.name), "float32", state.shape), 0, state.shape[0]))
            following = hk.sample(logits, temperature, top_p, coins.gather(place))
        else:
            following = logits.argmax()
        moved = place.replace(length, 0, 1)
        return {START: start, NEXT: [tokens.replace(following, length, successor.gather(length)), moved, logits]}

    def chunk(self, size: int, *, all_rows: bool = False) -> hk.Tensor:
        """Logits after a chunk of `size` tokens: [vocab_size] after token number `row`, or [size, vocab_size].

        Inputs, all int64: `tokens` and `positions` [size]; `begin` and `end` [1], the positions from the first to
        behind the last; `row` [1], unless all rows are wanted. Each token sees what stands before it, and itself. What
        fills up a chunk stands behind all that counts: nobody sees it, if its positions are written again before a
        token reaches them.
        """
        tokens, positions = (hk.InputTensor(name, "int64", [size]) for name in ("tokens", "positions"))
        begin, end = (hk.InputTensor(name, "int64", [1]) for name in ("begin", "end"))
        x = self._weight("tok_embeddings", tokens)
        x = self._layers(x, _Place(self, size, positions, begin, end))
        if not all_rows:
            x = x.gather(hk.InputTensor("row", "int64", [1])).reshape(self.config.dim)
        return self._logits(x)

    def _layers(self, x: hk.Tensor, place: "_Place") -> hk.Tensor:
        """All layers; x: [dim] or [size, dim]."""
        config = self.config
        for layer in (f"layers.{number}" for number in range(config.num_layers)):
            h = x.rms_norm(self._weight(f"{layer}.attention_norm"), config.norm_eps)
            query = place.rotate(self._linear(h, f"{layer}.wq"), config.num_heads)
            key = place.rotate(self._linear(h, f"{layer}.wk"), config.num_kv_heads)
            keys = place.write(self._states[f"{layer}.keys"], key.cast(self._cache))
            values = place.write(self._states[f"{layer}.values"], self._linear(h, f"{layer}.wv").cast(self._cache))
            attended = query.attention(keys, values, place.end).reshape(x.shape)
            x = x + self._linear(attended, f"{layer}.wo")
            h = x.rms_norm(self._weight(f"{layer}.ffn_norm"), config.norm_eps)
            gated = self._linear(h, f"{layer}.w1").silu() * self._linear(h, f"{layer}.w3")
            x = x + self._linear(gated, f"{layer}.w2")
        return x

    def _logits(self, x: hk.Tensor) -> hk.Tensor:
        x = x.rms_norm(self._weight("norm"), self.config.norm_eps)
        return self._linear(x, "tok_embeddings" if self.config.shared_classifier else "output")

    def _weight(self, name: str, rows: hk.Tensor | None = None) -> hk.Tensor:
        """A weight as float32, or some rows of it."""
        parts = self._constants(name)
        if rows is not None:
            parts = [part.gather(rows) for part in parts]
        if len(parts) == 2:
            return hk.dequantize(*parts)
        return parts[0] if parts[0].dtype == np.float32 else parts[0].cast("float32")

    def _constants(self, name: str) -> Sequence[hk.Tensor]:
        """The numbers of a weight and, if it is quantized, their scales."""
        if (known := self._known.get(name)) is None:
            array = self._weights[name]
            if isinstance(array, Quantized):
                known = [hk.ConstantTensor(array.values, name), hk.ConstantTensor(array.scales, scales_name(name))]
            else:
                known = [hk.ConstantTensor(array, name)]
            self._known[name] = known
        return known

    def _linear(self, x: hk.Tensor, name: str) -> hk.Tensor:
        """x times the transpose of a matrix that is stored [out, in]."""
        return x @ self._weight(name).permute(1, 0)

    def rotation(self, positions: hk.Tensor) -> hk.Tensor:
        """(cos, sin) of some positions: [positions, head_dim / 2, 2]."""
        return self._rotations.gather(positions)


class _Place:
    """Where the tokens of a block stand in the context: how their heads turn, and where keys and values go."""

    def __init__(
        self,
        of: Transformer,
        size: int,
        positions: hk.Tensor,
        begin: hk.Tensor,
        end: hk.Tensor,
    ):
        self._config = of.config
        self._size = size
        self._rotation = of.rotation(positions)  # [size, head_dim / 2, 2]
        self._rotations: dict[int, hk.Tensor] = {}
        """By the number of heads of a token."""
        self._begin, self.end = begin, end

    def rotate(self, x: hk.Tensor, heads: int) -> hk.Tensor:
        """Turns neighbouring pairs of each head by its position's angles: [heads, head_dim], or those of each token."""
        head_dim, size = self._config.head_dim, self._size
        rotation = self._rotation
        if size > 1:  # the same for all heads of a token
            if heads not in self._rotations:
                token_of = hk.ConstantTensor(np.repeat(np.arange(size), heads))
                self._rotations[heads] = rotation.gather(token_of)
            rotation = self._rotations[heads]
        pairs = x.reshape(size * heads, head_dim // 2, 2).complex_hadamard_product(rotation)
        return pairs.reshape(heads, head_dim) if size == 1 else pairs.reshape(size, heads, head_dim)

    def write(self, state: hk.Tensor, rows: hk.Tensor) -> hk.Tensor:
        """A cache of keys or values with those of the block: [max_positions, kv_heads, head_dim]."""
        return state.replace(rows.reshape(self._size, *state.shape[1:]), self._begin, self.end)
