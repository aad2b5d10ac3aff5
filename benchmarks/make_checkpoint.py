#!/usr/bin/env python3
"""Writes a llama2.c checkpoint of a named shape with random weights: make_checkpoint.py 15M /tmp/15M.bin."""

import argparse
import struct
from math import prod
from pathlib import Path

import numpy as np
from shapes import SHAPES

ORDER = ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3")
"""Kinds of layer weights in the order of the file, which has each kind for all layers before the next."""


def main() -> None:
    """Streams the weights to the file."""
    parser = argparse.ArgumentParser(description="Writes a random llama2.c checkpoint.")
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    config = SHAPES[options.shape]
    shapes = dict(config.weight_shapes())
    names = ["tok_embeddings"]
    names += [f"layers.{layer}.{kind}" for kind in ORDER for layer in range(config.num_layers)]
    names.append("norm")
    rng = np.random.default_rng(0)
    vocab = config.vocab_size if config.shared_classifier else -config.vocab_size
    sizes = (config.dim, config.hidden_dim, config.num_layers, config.num_heads, config.num_kv_heads)
    with options.path.open("wb") as file:
        file.write(struct.pack("<7i", *sizes, vocab, config.max_positions))
        for name in names:
            _write(file, rng, shapes[name], name.endswith("norm"))
        file.write(bytes(4 * config.max_positions * config.head_dim))  # rotations, which readers skip
        if not config.shared_classifier:
            _write(file, rng, shapes["output"], False)


def _write(file, rng: np.random.Generator, shape: tuple[int, ...], ones: bool) -> None:
    count = prod(shape)
    for start in range(0, count, 1 << 24):
        size = min(1 << 24, count - start)
        array = np.ones(size, np.float32) if ones else rng.standard_normal(size, np.float32) * np.float32(0.02)
        file.write(array.tobytes())


if __name__ == "__main__":
    main()
