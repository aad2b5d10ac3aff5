"""The sizes of a llama model."""

from collections.abc import Iterator
from dataclasses import dataclass


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

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.num_heads

    @property
    def kv_dim(self) -> int:
        """Width of all keys, or all values, of a position."""
        return self.head_dim * self.num_kv_heads

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
