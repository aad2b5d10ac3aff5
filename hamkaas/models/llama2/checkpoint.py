"""A model as it comes out of a file, whatever the kind of the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.tokenizer import BOS, Tokenizer


@dataclass(frozen=True)
class Quantized:
    """A matrix as int8 numbers with one scale for each group of neighbours in a row (Q8_0)."""

    values: NDArray[np.int8]
    """[out, in]"""
    scales: NDArray[np.float32] | NDArray[np.float16]
    """[out, in / group]"""

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers and the scales."""
        return self.values.nbytes + self.scales.nbytes


Weight: TypeAlias = NDArray[Any] | Quantized


@dataclass(frozen=True)
class Checkpoint:
    """A model: its sizes, its weights and, where the file has them, its tokenizer and how to talk to it.

    Matrices are [out, in]. Pairs of neighbours of a query's or a key's head turn together (llama2.c's order).
    """

    config: Config
    weights: Mapping[str, Weight]
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    """Jinja: messages to the text of a prompt."""
    bos_text: str = ""
    eos_text: str = ""
    """How templates write the tokens that begin and end a text."""
    stop: frozenset[int] = field(default=frozenset((BOS,)))
    """Tokens that end a text once they are generated."""

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(weight.nbytes for weight in self.weights.values())

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that one step reads: of the embedding table one row, unless it is the classifier too."""
        unread = 0 if self.config.shared_classifier else self.weights["tok_embeddings"].nbytes
        return self.nbytes - unread
