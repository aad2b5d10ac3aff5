"""A model as it comes out of a file, whatever the kind of the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hamkaas.artifact import ALIGNMENT
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.tokenizer import BOS, Tokenizer

SHELF_BYTES = 64 << 20
"""Size of a piece of memory for weights, unless a single one is larger."""


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


class Shelf:
    """Memory for weights that are not used as they are in a file.

    They lie as the CPU likes them, so that no other copy is made: at multiples of `ALIGNMENT`, in pieces so large that
    numpy asks for pages of 2 MB. A piece is no larger than all that was put before, for small models to stay small.
    """

    def __init__(self) -> None:
        self._free = np.empty(0, np.uint8)
        self._size = 0

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy, which is read-only."""
        start = -self._free.ctypes.data % ALIGNMENT
        if start + array.nbytes > self._free.nbytes:
            self._free = np.empty(max(min(SHELF_BYTES, self._size), array.nbytes) + ALIGNMENT, np.uint8)
            start = -self._free.ctypes.data % ALIGNMENT
        self._size += array.nbytes
        place, self._free = self._free[start : start + array.nbytes], self._free[start + array.nbytes :]
        copy = place.view(array.dtype).reshape(array.shape)
        copy[...] = array
        copy.flags.writeable = False
        return copy


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
