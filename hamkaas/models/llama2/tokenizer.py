"""Tokenizers: what one is, that of llama2.c (byte-pair encoding by score, as sentencepiece does it), streams of text.

A tokenizer file of llama2.c is int32 max_token_length, then for each token float32 score, int32 length and its bytes.
Tokens 0, 1 and 2 are unknown, BOS and EOS; tokens 3 to 258 stand for single bytes and are spelt "<0x00>" to "<0xFF>".
"""

import heapq
import re
import struct
from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from hamkaas.errors import CheckpointError

UNKNOWN = 0
BOS = 1
EOS = 2
_BYTE = re.compile(rb"<0x([0-9A-Fa-f]{2})>")


class Tokenizer(Protocol):
    """Text to tokens and back."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text at the start of a context, after the token that such texts begin with, if any."""
        ...

    def encode_turn(self, text: str) -> list[int]:
        """The tokens of a part of a chat, in which the names of control tokens stand for them; nothing is added."""
        ...

    def piece(self, token: int, previous: int) -> bytes:
        """What a token adds to the text after `previous`."""
        ...


@dataclass(frozen=True)
class ScoredTokenizer:
    """The pieces of a vocabulary, as bytes, and their scores; indexed by token."""

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]
    control: frozenset[int] = frozenset()
    """Tokens that stand for no text; llama2.c prints them all."""

    @cached_property
    def token_of(self) -> dict[bytes, int]:
        """The token of each piece; of equal pieces the first."""
        return {piece: token for token, piece in reversed(list(enumerate(self.pieces)))}

    @cached_property
    def byte_tokens(self) -> tuple[int, ...]:
        """The token of each byte, by its name; unknown where a vocabulary, say one of characters, has none."""
        return tuple(self.token_of.get(b"<0x%02X>" % byte, UNKNOWN) for byte in range(256))

    def padded(self, vocab_size: int) -> "ScoredTokenizer":
        """The same with tokens that nobody writes, up to the size of a model's vocabulary; not for a larger one."""
        more = vocab_size - len(self.pieces)
        if more < 0:
            raise CheckpointError(f"expected a tokenizer of at most {vocab_size} tokens, got {len(self.pieces)}")
        return ScoredTokenizer((*self.pieces, *[b""] * more), (*self.scores, *[0.0] * more), self.control)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, after BOS. Characters that are no token are encoded byte by byte."""
        return [BOS, *self._encode_text(text)]

    def encode_turn(self, text: str) -> list[int]:
        """See `Tokenizer`. A text after a control token gets a space in front, as the start of a text does."""
        names = {self.pieces[token].decode(errors="replace"): token for token in self.control}
        tokens: list[int] = []
        pattern = "|".join(map(re.escape, names))
        for part in re.split(f"({pattern})", text) if names else [text]:
            if part:
                tokens.extend([names[part]] if part in names else self._encode_text(part))
        return tokens

    def _encode_text(self, text: str) -> list[int]:
        if not text:
            return []
        parts: list[int] = [self.token_of[b" "]] if b" " in self.token_of else []
        for character in text:
            piece = character.encode("utf-8", "surrogateescape")
            token = self.token_of.get(piece)
            parts.extend([token] if token is not None else [self.byte_tokens[byte] for byte in piece])
        return self._merge(parts)

    def _merge(self, tokens: list[int]) -> list[int]:
        """Joins the neighbours whose joint piece scores best, the leftmost first, until no two make a piece.

        A heap of candidates over a linked list: O(n log n), where looking at all pairs for each merge takes O(n^2).
        """
        following = [*range(1, len(tokens)), -1]
        before = [-1, *range(len(tokens) - 1)]
        alive = [True] * len(tokens)
        heap: list[tuple[float, int, int, int, int]] = []

        def consider(left: int) -> None:
            right = following[left]
            if right < 0:
                return
            joint = self.token_of.get(self.pieces[tokens[left]] + self.pieces[tokens[right]])
            if joint is not None:
                heapq.heappush(heap, (-self.scores[joint], left, tokens[left], tokens[right], joint))

        for place in range(len(tokens) - 1):
            consider(place)
        while heap:
            _, left, first, second, joint = heapq.heappop(heap)
            right = following[left]
            if not alive[left] or right < 0 or (tokens[left], tokens[right]) != (first, second):
                continue  # one of the two has been joined to something else since
            tokens[left] = joint
            alive[right] = False
            following[left] = following[right]
            if following[left] >= 0:
                before[following[left]] = left
            if before[left] >= 0:
                consider(before[left])
            consider(left)
        return [token for token, is_alive in zip(tokens, alive, strict=True) if is_alive]

    def piece(self, token: int, previous: int) -> bytes:
        """What a token adds to the text after `previous`: a space at the very start is dropped."""
        if token in self.control:
            return b""
        piece = self.pieces[token]
        if previous == BOS:
            piece = piece.removeprefix(b" ")
        if (byte := _BYTE.fullmatch(piece)) is not None:
            return bytes([int(byte[1], 16)])
        return piece


class TextStream:
    """Turns tokens into text as they come; a character that is split over tokens is held back until it is whole."""

    def __init__(self, tokenizer: Tokenizer, compat: bool = False):
        """`compat` drops single bytes that are not ASCII, as llama2.c does: what it prints, byte for byte."""
        self._tokenizer = tokenizer
        self._compat = compat
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int, previous: int) -> str:
        """The text that is complete with this token. Control characters that are no white space are dropped."""
        piece = self._tokenizer.piece(token, previous)
        if len(piece) == 1 and (piece[0] < 0x20 or piece[0] == 0x7F) and piece not in b"\t\n\v\f\r":
            return ""
        if self._compat and len(piece) == 1 and piece[0] >= 0x80:
            return ""
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """What was held back."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Text up to the first of some strings; what may yet become one of them is held back."""

    def __init__(self, strings: Sequence[str]):
        """Raises `ValueError` for an empty string, which would stop everything."""
        if "" in strings:
            raise ValueError("expected stop strings that are not empty")
        self._strings = tuple(strings)
        self._held = ""
        self.found = False
        """Whether one of the strings has come. Nothing is to be pushed after it."""

    def push(self, text: str) -> str:
        """The text that is certain to stand before any of the strings."""
        self._held += text
        places = [place for string in self._strings if (place := self._held.find(string)) >= 0]
        if places:
            self.found = True
            return self._take(min(places))
        return self._take(len(self._held) - self._pending())

    def finish(self) -> str:
        """What was held back and did not become one of the strings."""
        return "" if self.found else self._take(len(self._held))

    def _pending(self) -> int:
        """Length of the longest end of the text that is the beginning of a string."""
        longest = min(len(self._held), max(map(len, self._strings), default=1) - 1)
        ends = (self._held[len(self._held) - length :] for length in range(longest, 0, -1))
        return next((len(end) for end in ends if any(string.startswith(end) for string in self._strings)), 0)

    def _take(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text


def load_llama2c_tokenizer(path: Path, vocab_size: int) -> ScoredTokenizer:
    """Reads a tokenizer of `vocab_size` tokens. Raises `CheckpointError` for a file of another size or kind."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) < 4:
        raise CheckpointError(f"{path}: truncated: expected a tokenizer, got {len(data)} bytes")
    (longest,) = struct.unpack_from("<i", data)
    pieces: list[bytes] = []
    scores: list[float] = []
    at = 4
    while at < len(data):
        if at + 8 > len(data):
            raise CheckpointError(f"{path}: truncated in token {len(pieces)}")
        score, length = struct.unpack_from("<fi", data, at)
        if not 0 <= length <= longest or at + 8 + length > len(data):
            raise CheckpointError(
                f"{path}: no llama2.c tokenizer: expected token {len(pieces)} of 0 to {longest} bytes, got {length}"
            )
        pieces.append(data[at + 8 : at + 8 + length])
        scores.append(score)
        at += 8 + length
    if len(pieces) != vocab_size:
        raise CheckpointError(f"{path}: expected {vocab_size} tokens, as the checkpoint has, got {len(pieces)}")
    return ScoredTokenizer(tuple(pieces), tuple(scores))
