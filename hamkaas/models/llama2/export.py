"""Writing checkpoints of llama2.c: version 0 (float32) and version 2 (Q8_0)."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hamkaas.errors import CheckpointError
from hamkaas.models.llama2.checkpoint import Checkpoint, Quantized, Weight
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.graph import rotations
from hamkaas.models.llama2.llama2c import MAGIC, SIZES, TAGGED_HEADER, Block, v0_order, v1_order
from hamkaas.weights import quantize

Progress = Callable[[int, int], None]


def export_v0(checkpoint: Checkpoint, path: Path, progress: Progress | None = None) -> None:
    """Writes float32 weights, one tensor after the other. Raises `CheckpointError` for a model that has no place there.

    The file appears whole or not at all.
    """
    config = _check(checkpoint.config, 0)
    vocab = config.vocab_size if config.shared_classifier else -config.vocab_size
    header = SIZES.pack(*_sizes(config)[:5], vocab, config.max_positions)
    _write(path, header, _chunks_v0(checkpoint, list(v0_order(config)), progress))


def export_v2(checkpoint: Checkpoint, path: Path, group: int = 64, progress: Progress | None = None) -> None:
    """Writes int8 weights with a float32 scale for each group, rounded as llama2.c's export does it.

    Raises `CheckpointError` for a model that has no place there, and for groups that do not divide dim and hidden_dim.
    """
    config = _check(checkpoint.config, 2)
    if group < 1 or config.dim % group or config.hidden_dim % group:
        raise CheckpointError(
            f"expected groups that divide dim {config.dim} and hidden_dim {config.hidden_dim}, got {group}"
        )
    header = struct.pack("<Ii7iBi", MAGIC, 2, *_sizes(config), config.shared_classifier, group)
    chunks = _chunks_v2(checkpoint, list(v1_order(config)), group, progress)
    _write(path, header.ljust(TAGGED_HEADER, b"\0"), chunks)


def _check(config: Config, version: int) -> Config:
    """The format has no place for these: whoever reads it takes them for granted."""
    fixed = {"rope_theta": 10000.0, "norm_eps": 1e-5, "rope_divisors": ()}
    for name, value in fixed.items():
        if not np.allclose(getattr(config, name), value, rtol=1e-6, atol=0):
            raise CheckpointError(
                f"version {version} of llama2.c has no place for {name}: expected {value}, got {getattr(config, name)}"
            )
    return config


def _sizes(config: Config) -> tuple[int, ...]:
    return (
        config.dim,
        config.hidden_dim,
        config.num_layers,
        config.num_heads,
        config.num_kv_heads,
        config.vocab_size,
        config.max_positions,
    )


def dequantized(weight: Weight) -> NDArray[np.float32]:
    """A weight as float32."""
    if not isinstance(weight, Quantized):
        return np.asarray(weight, np.float32)
    group = weight.values.shape[-1] // weight.scales.shape[-1]
    return weight.values * np.repeat(weight.scales.astype(np.float32), group, axis=-1)


def _names(block: Block, config: Config) -> list[str]:
    """The weights that a block of the file holds."""
    if block.name is None:
        return []
    count = config.num_layers if block.name.startswith("layers.*.") else 1
    return [block.name.replace("*", str(layer)) for layer in range(count)]


def _chunks_v0(checkpoint: Checkpoint, blocks: list[Block], progress: Progress | None) -> Iterator[NDArray[Any]]:
    tables = iter(np.moveaxis(rotations(checkpoint.config), -1, 0))  # the old readers' (cos, sin)
    for number, block in enumerate(blocks):
        if block.name is None:
            yield next(tables)
        for name in _names(block, checkpoint.config):
            yield dequantized(checkpoint.weights[name])
        if progress is not None:
            progress(number + 1, len(blocks))


def _chunks_v2(
    checkpoint: Checkpoint, blocks: list[Block], group: int, progress: Progress | None
) -> Iterator[NDArray[Any]]:
    for number, block in enumerate(blocks):
        for name in _names(block, checkpoint.config):
            weight = dequantized(checkpoint.weights[name])
            if block.is_norm:
                yield weight
            else:
                quantized = Quantized(*quantize(weight, group))
                yield quantized.values
                yield quantized.scales
        if progress is not None:
            progress(number + 1, len(blocks))


def _write(path: Path, header: bytes, chunks: Iterator[NDArray[Any]]) -> None:
    """Into a file beside, which takes the name when all is written; straight into what is no file, such as a pipe."""
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            _write_all(file, header, chunks)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("xb") as file:
            _write_all(file, header, chunks)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(file: BinaryIO, header: bytes, chunks: Iterator[NDArray[Any]]) -> None:
    file.write(header)
    for chunk in chunks:
        file.write(np.ascontiguousarray(chunk).data.cast("B"))
