"""llama2.c as a peer: a checkpoint and a tokenizer in its format, and the rate that it reports."""

import re
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hamkaas.models.llama2 import Config

ORDER = ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3")
"""Kinds of layer weights in the order of the file, which has each kind for all layers before the next."""


def write_model(config: Config, weights: Mapping[str, Any], folder: Path) -> None:
    """Writes `model.bin` (all weights are float32), and `tokenizer.bin` in which every token is a space."""
    names = ["tok_embeddings"]
    names += [f"layers.{layer}.{kind}" for kind in ORDER for layer in range(config.num_layers)]
    names.append("norm")
    vocab = config.vocab_size if config.shared_classifier else -config.vocab_size
    sizes = (config.dim, config.hidden_dim, config.num_layers, config.num_heads, config.num_kv_heads)
    with (folder / "model.bin").open("wb") as file:
        file.write(struct.pack("<7i", *sizes, vocab, config.max_positions))
        for name in names:
            file.write(weights[name].data)
        file.write(bytes(4 * config.max_positions * config.head_dim))  # rotations, which readers skip
        if not config.shared_classifier:
            file.write(weights["output"].data)
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 1) + struct.pack("<fi1s", 0, 1, b" ") * config.vocab_size)


def generate(program: Path, folder: Path, tokens: int) -> float:
    """Seconds per token of one greedy generation from position 0, the first token left out, by its own clock."""
    command = [program, folder / "model.bin", "-t", "0", "-n", str(tokens), "-z", folder / "tokenizer.bin"]
    result = subprocess.run(command, capture_output=True, check=True)
    found = re.search(rb"achieved tok/s: ([\d.]+)", result.stderr)
    if found is None:
        raise ValueError(f"expected a rate from {program}, got {result.stderr!r}")
    return 1 / float(found[1])
