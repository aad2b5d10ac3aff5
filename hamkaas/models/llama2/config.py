"""The sizes of a llama model."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

LIMITS = {
    "dim": 1 << 16,
    "hidden_dim": 1 << 18,
    "num_layers": 1 << 10,
    "num_heads": 1 << 10,
    "num_kv_heads": 1 << 10,
    "vocab_size": 1 << 22,
    "max_positions": 1 << 20,
}
"""Sizes beyond which a file does not describe a model, but is damaged or something else."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters of a llama-architecture transformer (arXiv:2302.13971), named as in the papers."""

    dim: int
    """Width of the residual stream."""
    hidden_dim: int
    """Width of the feed-forward layer."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    """Heads of keys and values; each serves num_heads / num_kv_heads query heads (arXiv:2305.13245)."""
    vocab_size: int
    max_positions: int
    """Length of the context."""
    shared_classifier: bool
    """Whether the classifier is the embedding table."""
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    rope_divisors: tuple[float, ...] = ()
    """What the frequency of each pair of a head is divided by, to reach further than a model was first trained for."""

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.num_heads

    @property
    def kv_dim(self) -> int:
        """Width of all keys, or all values, of a position."""
        return self.head_dim * self.num_kv_heads

    def problem(self) -> str | None:
        """Why no model can have these sizes, or None: expected what, got what."""
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= limit:
                return f"expected {name} between 1 and {limit}, got {value!r}"
        if self.dim % self.num_heads or self.num_heads % self.num_kv_heads or self.head_dim % 2:
            return (
                "expected heads that divide dim into even sizes, and kv heads that divide heads, "
                f"got dim {self.dim}, heads {self.num_heads}, kv heads {self.num_kv_heads}"
            )
        if self.rope_divisors and len(self.rope_divisors) != self.head_dim // 2:
            return f"expected {self.head_dim // 2} factors of rotary embedding, got {len(self.rope_divisors)}"
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, float) or not 0 < value < inf:
                return f"expected {name} to be a positive number, got {value!r}"
        return None

    def weight_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of every weight; matrices are [out, in]."""
        dim, hidden, kv_dim = self.dim, self.hidden_dim, self.kv_dim
        of_layer = {
            "attention_norm": (dim,),
            "wq": (dim, dim),
            "wk": (kv_dim, dim),
            "wv": (kv_dim, dim),
            "wo": (dim, dim),
            "ffn_norm": (dim,),
            "w1": (hidden, dim),
            "w2": (dim, hidden),
            "w3": (hidden, dim),
        }
        yield "tok_embeddings", (self.vocab_size, dim)
        for layer in range(self.num_layers):
            for name, shape in of_layer.items():
                yield f"layers.{layer}.{name}", shape
        yield "norm", (dim,)
        if not self.shared_classifier:
            yield "output", (self.vocab_size, dim)
