"""Vocabularies of sentencepiece (`tokenizer.model`), read from their protobuf without the library.

A `ModelProto` has a `SentencePiece` in each field 1: piece (1), score (2) and type (3); field 2 is the trainer's
specification, whose field 3 is the type of the model.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from hamkaas.errors import CheckpointError
from hamkaas.models.llama2.tokenizer import ScoredTokenizer

CONTROL = 3
"""Type of pieces that stand for no text."""
BPE = 2
"""Type of models that merge pieces by score."""
SPACE = "\u2581".encode()
"""How a piece writes a space."""


def load_sentencepiece(path: Path) -> ScoredTokenizer:
    """Reads a vocabulary. Raises `CheckpointError` for a damaged file and for a model that is not BPE."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    pieces: list[bytes] = []
    scores: list[float] = []
    control: set[int] = set()
    kind = 1  # unigram, which a file may leave out
    try:
        for number, value in fields(data):
            if number == 1 and isinstance(value, bytes):
                entry = dict(fields(value))
                piece, score, type = entry.get(1), entry.get(2, 0.0), entry.get(3, 1)
                if not isinstance(piece, bytes) or not isinstance(score, float):
                    raise ValueError("a piece without text")
                if type == CONTROL:
                    control.add(len(pieces))
                pieces.append(piece.replace(SPACE, b" "))
                scores.append(score)
            elif number == 2 and isinstance(value, bytes):
                kind = dict(fields(value)).get(3, 1)
    except (ValueError, struct.error, IndexError) as error:
        raise CheckpointError(f"{path}: no sentencepiece model: {error}") from None
    if not pieces or kind != BPE:
        raise CheckpointError(f"{path}: expected a sentencepiece model of type BPE (2), got type {kind}")
    return ScoredTokenizer(tuple(pieces), tuple(scores), frozenset(control))


def fields(data: bytes) -> Iterator[tuple[int, bytes | int | float]]:
    """(number, value) of each field of a protobuf message: bytes, an integer, or a float of four bytes.

    Raises `ValueError` where the data is no message.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
            case 1:
                value, at = data[at : at + 8], at + 8
            case 2:
                length, at = _varint(data, at)
                value, at = data[at : at + length], at + length
            case 5:
                (value,), at = struct.unpack_from("<f", data, at), at + 4
            case wire:
                raise ValueError(f"wire type {wire} at byte {at}")
        if at > len(data):
            raise ValueError(f"truncated: expected {at} bytes, got {len(data)}")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("truncated in a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than 64 bits at byte {at}")
