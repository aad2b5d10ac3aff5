"""Checkpoints of llama2.c: the v0 format, memory-mapped.

A v0 file is seven int32 (dim, hidden_dim, layers, heads, kv heads, vocabulary, positions; the vocabulary is negative
if the classifier is not the embedding table), then all weights as float32, one kind after the other, layer by layer.
"""

import struct
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamkaas.errors import CheckpointError
from hamkaas.models.llama2.config import Config

HEADER = struct.Struct("<7i")

MAGIC = 0x616B3432
"""First word of the versions after v0: the letters "ak42"."""

LIMITS = {
    "dim": 1 << 16,
    "hidden_dim": 1 << 18,
    "num_layers": 1 << 10,
    "num_heads": 1 << 10,
    "num_kv_heads": 1 << 10,
    "vocab_size": 1 << 22,
    "max_positions": 1 << 20,
}
"""Sizes beyond which a header is not a model but some other file."""


@dataclass(frozen=True)
class Checkpoint:
    """A model's sizes and weights. The arrays are views of the file; matrices are [out, in]."""

    config: Config
    weights: dict[str, NDArray[np.float32]]

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(array.nbytes for array in self.weights.values())


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint. Raises `CheckpointError` for a file that is missing, of another kind, or of a wrong size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER.size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    config = _read_header(path, header)
    layout = _layout(config)
    expected = HEADER.size + 4 * sum(prod(shape) for _, shape in layout)
    if size != expected:
        kind = "truncated" if size < expected else "too long"
        raise CheckpointError(f"{path}: {kind}: expected {expected} bytes for the sizes in its header, got {size}")
    data = np.memmap(path, np.dtype("<f4"), mode="r", offset=HEADER.size)
    weights: dict[str, NDArray[np.float32]] = {}
    first = 0
    for name, shape in layout:
        block = np.asarray(data[first : first + prod(shape)]).reshape(shape)
        first += prod(shape)
        if name is None:
            continue
        if name.startswith("layers.*."):
            for layer, array in enumerate(block):
                weights[name.replace("*", str(layer))] = array
        else:
            weights[name] = block
    return Checkpoint(config, weights)


def _read_header(path: Path, header: bytes) -> Config:
    if len(header) < HEADER.size:
        raise CheckpointError(f"{path}: truncated: expected a header of {HEADER.size} bytes, got {len(header)}")
    magic, version = struct.unpack_from("<Ii", header)
    if magic == MAGIC:
        raise CheckpointError(f"{path}: expected a llama2.c checkpoint of version 0, got version {version}")
    dim, hidden_dim, layers, heads, kv_heads, vocab, positions = HEADER.unpack(header)
    config = Config(dim, hidden_dim, layers, heads, kv_heads, abs(vocab), positions, vocab > 0)
    for field in fields(config):
        if field.name in LIMITS and not 1 <= (value := getattr(config, field.name)) <= LIMITS[field.name]:
            limit = LIMITS[field.name]
            raise CheckpointError(
                f"{path}: no llama2.c checkpoint: expected {field.name} between 1 and {limit}, got {value}"
            )
    if dim % heads or heads % kv_heads or config.head_dim % 2:
        raise CheckpointError(
            f"{path}: expected heads that divide dim into even sizes, and kv heads that divide heads, "
            f"got dim {dim}, heads {heads}, kv heads {kv_heads}"
        )
    return config


def _layout(config: Config) -> list[tuple[str | None, tuple[int, ...]]]:
    """What the file holds, in order; None for the tables of rotations that llama2.c no longer reads."""
    layers, dim, hidden, kv_dim = config.num_layers, config.dim, config.hidden_dim, config.kv_dim
    rotations = (config.max_positions, config.head_dim // 2)
    layout: list[tuple[str | None, tuple[int, ...]]] = [
        ("tok_embeddings", (config.vocab_size, dim)),
        ("layers.*.attention_norm", (layers, dim)),
        ("layers.*.wq", (layers, dim, dim)),
        ("layers.*.wk", (layers, kv_dim, dim)),
        ("layers.*.wv", (layers, kv_dim, dim)),
        ("layers.*.wo", (layers, dim, dim)),
        ("layers.*.ffn_norm", (layers, dim)),
        ("layers.*.w1", (layers, hidden, dim)),
        ("layers.*.w2", (layers, dim, hidden)),
        ("layers.*.w3", (layers, hidden, dim)),
        ("norm", (dim,)),
        (None, rotations),
        (None, rotations),
    ]
    if not config.shared_classifier:
        layout.append(("output", (config.vocab_size, dim)))
    return layout
