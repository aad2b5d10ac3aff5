"""Checkpoints of llama2.c, memory-mapped: versions 0 and 1 (float32) and 2 (Q8_0).

Version 0 starts with seven int32: dim, hidden_dim, layers, heads, kv heads, vocabulary and positions; the vocabulary
is negative if the classifier is not the embedding table. Versions 1 and 2 start with 256 bytes: the magic "ak42", the
version, the same seven, one byte that says whether the classifier is shared and, in version 2, the size of the groups.
Then come the weights, one kind after the other, layer by layer, in an order that differs (`v0_order`, `v1_order`). In
version 2 the norms are float32; every other tensor is its int8 numbers, then its float32 scales.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamkaas.errors import CheckpointError
from hamkaas.models.llama2.checkpoint import Checkpoint, Quantized, Weight
from hamkaas.models.llama2.config import Config

SIZES = struct.Struct("<7i")
MAGIC = 0x616B3432
"""First word of the versions after 0: "ak42"."""
TAGGED_HEADER = 256
"""Bytes before the weights in the versions after 0."""


@dataclass(frozen=True)
class _Header:
    config: Config
    version: int
    bytes: int
    group: int = 0


@dataclass(frozen=True)
class Block:
    """One tensor of the file, or the tensors of all layers; no name for what nobody reads."""

    name: str | None
    shape: tuple[int, ...]

    @property
    def is_norm(self) -> bool:
        """Whether it is float32 in version 2."""
        return self.name is not None and self.name.endswith("norm")


def load_llama2c(path: Path) -> Checkpoint:
    """Reads a checkpoint. Raises `CheckpointError` for a file of another kind, or of a wrong size."""
    with path.open("rb") as file:
        start = file.read(TAGGED_HEADER)
    header = _read_header(path, start)
    blocks = list(v0_order(header.config) if header.version == 0 else v1_order(header.config))
    expected = header.bytes + sum(_block_bytes(block, header) for block in blocks)
    size = path.stat().st_size
    if size != expected:
        kind = "truncated" if size < expected else "too long"
        raise CheckpointError(f"{path}: {kind}: expected {expected} bytes for the sizes in its header, got {size}")
    data = np.memmap(path, np.uint8, mode="r")
    weights: dict[str, Weight] = {}
    at = header.bytes
    for block in blocks:
        weights.update(_read_block(np.asarray(data[at : at + _block_bytes(block, header)]), block, header))
        at += _block_bytes(block, header)
    return Checkpoint(header.config, weights)


def _read_header(path: Path, start: bytes) -> _Header:
    if len(start) < SIZES.size:
        raise CheckpointError(f"{path}: truncated: expected a header of {SIZES.size} bytes, got {len(start)}")
    magic, version = struct.unpack_from("<Ii", start)
    if magic != MAGIC:
        *sizes, vocab, positions = SIZES.unpack_from(start)
        config = Config(*[*sizes, abs(vocab), positions], shared_classifier=vocab > 0)
        _check_sizes(path, config)
        return _Header(config, 0, SIZES.size)
    if version not in (1, 2):
        raise CheckpointError(f"{path}: expected a llama2.c checkpoint of version 0, 1 or 2, got version {version}")
    if len(start) < TAGGED_HEADER:
        raise CheckpointError(f"{path}: truncated: expected a header of {TAGGED_HEADER} bytes, got {len(start)}")
    config = Config(*SIZES.unpack_from(start, 8), shared_classifier=bool(start[36]))
    _check_sizes(path, config)
    (group,) = struct.unpack_from("<i", start, 37) if version == 2 else (0,)
    if version == 2 and (group < 1 or config.dim % group or config.hidden_dim % group):
        raise CheckpointError(
            f"{path}: expected groups that divide dim {config.dim} and hidden_dim {config.hidden_dim}, got {group}"
        )
    return _Header(config, version, TAGGED_HEADER, group)


def _check_sizes(path: Path, config: Config) -> None:
    if (problem := config.problem()) is not None:
        raise CheckpointError(f"{path}: no llama2.c checkpoint: {problem}")


def v0_order(config: Config) -> Iterator[Block]:
    """What follows the header in version 0."""
    norms, matrices = _norms(config), _matrices(config)
    yield Block("tok_embeddings", (config.vocab_size, config.dim))
    yield norms[0]
    yield from matrices[:4]
    yield norms[1]
    # w1, w2, w3
    yield from matrices[4:]
    yield norms[2]
    for _ in ("cos", "sin"):  # tables of rotations that llama2.c no longer reads
        yield Block(None, (config.max_positions, config.head_dim // 2))
    if not config.shared_classifier:
        yield Block("output", (config.vocab_size, config.dim))


def v1_order(config: Config) -> Iterator[Block]:
    """What follows the header in versions 1 and 2."""
    yield from _norms(config)
    yield Block("tok_embeddings", (config.vocab_size, config.dim))
    yield from _matrices(config)
    if not config.shared_classifier:
        yield Block("output", (config.vocab_size, config.dim))


def _norms(config: Config) -> list[Block]:
    each_layer = (config.num_layers, config.dim)
    return [
        Block("layers.*.attention_norm", each_layer),
        Block("layers.*.ffn_norm", each_layer),
        Block("norm", (config.dim,)),
    ]


def _matrices(config: Config) -> list[Block]:
    layers, dim, hidden, kv_dim = config.num_layers, config.dim, config.hidden_dim, config.kv_dim
    return [
        Block("layers.*.wq", (layers, dim, dim)),
        Block("layers.*.wk", (layers, kv_dim, dim)),
        Block("layers.*.wv", (layers, kv_dim, dim)),
        Block("layers.*.wo", (layers, dim, dim)),
        Block("layers.*.w1", (layers, hidden, dim)),
        Block("layers.*.w2", (layers, dim, hidden)),
        Block("layers.*.w3", (layers, hidden, dim)),
    ]


def _block_bytes(block: Block, header: _Header) -> int:
    if header.version < 2 or block.is_norm:
        return 4 * prod(block.shape)
    return prod(block.shape) + 4 * prod(block.shape) // header.group


def _read_block(data: NDArray[np.uint8], block: Block, header: _Header) -> Iterator[tuple[str, Weight]]:
    """(name, weight) of each tensor in the bytes of a block: views, no copies."""
    name = block.name
    if name is None:
        return
    layered = name.startswith("layers.*.")
    count = block.shape[0] if layered else 1
    for layer, one in enumerate(data.reshape(count, -1)):
        full_name = name.replace("*", str(layer))
        shape = block.shape[1:] if layered else block.shape
        if header.version < 2 or block.is_norm:
            yield full_name, one.view("<f4").reshape(shape)
        else:
            values, scales = one[: prod(shape)], one[prod(shape) :]
            groups = (*shape[:-1], shape[-1] // header.group)
            yield full_name, Quantized(values.view(np.int8).reshape(shape), scales.view("<f4").reshape(groups))
