"""Byte-level byte-pair encoding, as GPT-2 has it (Sennrich et al., arXiv:1508.07909), through the `tokenizers` package.

A vocabulary of this kind spells bytes as printable characters: `Ġ` is a space.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hamkaas.errors import CheckpointError

SPLITS = {
    # the contractions, words, numbers and white space of GPT-2
    "default": None,
    "gpt-2": None,
    # the same, with every digit on its own
    "smollm": "digits",
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""How a text is cut before it is merged, by the name that GGUF files use: a pattern, or a rule of the package."""


def byte_of_character() -> dict[str, int]:
    """The byte for which each character of such a vocabulary stands.

    Printable characters of Latin-1 stand for themselves; the other bytes follow in order from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class BpeTokenizer:
    """A tokenizer of pieces, merges and control tokens; see `Tokenizer`."""

    def __init__(
        self, tokens: Sequence[str], merges: Sequence[str], control: frozenset[int], splits: str, bos: int | None
    ):
        """`merges` are pairs, the first to be done first; `bos` begins every text, unless it is None."""
        if splits not in SPLITS:
            raise CheckpointError(f"expected a tokenizer that splits as {', '.join(SPLITS)} do, got {splits}")
        from tokenizers import AddedToken, Regex, models, pre_tokenizers
        from tokenizers import Tokenizer as Library

        self._bos = bos
        self._control = control
        byte_of = byte_of_character()
        self._pieces = [bytes(byte_of.get(character, 0x3F) for character in token) for token in tokens]
        pairs = cast("list[tuple[str, str]]", [tuple(merge.split(" ", 1)) for merge in merges])
        library = Library(models.BPE({token: number for number, token in enumerate(tokens)}, pairs))
        rule = SPLITS[splits]
        if rule is None:
            steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
        elif rule == "digits":
            steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        else:
            cut = pre_tokenizers.Split(Regex(rule), "isolated")
            steps = [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        library.pre_tokenizer = pre_tokenizers.Sequence(steps)
        self._plain = Library.from_str(library.to_str())
        library.add_special_tokens([AddedToken(tokens[token], special=True) for token in sorted(control)])  # pyright: ignore[reportUnknownMemberType]
        self._with_control = library

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        start = [] if self._bos is None else [self._bos]
        return start + self._plain.encode(text, add_special_tokens=False).ids

    def encode_turn(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return self._with_control.encode(text, add_special_tokens=False).ids

    def piece(self, token: int, previous: int) -> bytes:
        """See `Tokenizer`; `previous` changes nothing."""
        return b"" if token in self._control else self._pieces[token]


class JsonTokenizer:
    """A `tokenizer.json`, as the `tokenizers` package runs it; see `Tokenizer`."""

    def __init__(self, path: Path, vocab_size: int):
        """Raises `CheckpointError` for a file that the package refuses, or with more tokens than the model has."""
        try:
            from tokenizers import Tokenizer as Library
        except ImportError as error:
            raise CheckpointError(f"{path}: more packages are needed ({error}): pip install 'hamkaas[hf]'") from None
        try:
            text = path.read_text(encoding="utf-8")
            self._with_control = Library.from_str(text)
            self._plain = Library.from_str(text)
            self._start = self._with_control.encode("", add_special_tokens=True).ids
            description = json.loads(text)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the package raises plain exceptions, and panics, which are none of these
            raise CheckpointError(f"{path}: no tokenizer that can be read: {error}") from None
        self._plain.encode_special_tokens = True
        vocabulary: dict[str, int] = self._plain.get_vocab(with_added_tokens=True)
        largest = max([*vocabulary.values(), *self._start], default=0)
        if largest >= vocab_size:
            raise CheckpointError(
                f"{path}: expected tokens from 0 to {vocab_size - 1}, as the checkpoint has, got {largest}"
            )
        is_bytes = '"ByteLevel"' in json.dumps([description.get("decoder"), description.get("pre_tokenizer")])
        self._pieces = [b""] * vocab_size
        for piece, token in vocabulary.items():
            self._pieces[token] = _byte_level_piece(piece) if is_bytes else _sentencepiece_piece(piece)
        for token, added in self._plain.get_added_tokens_decoder().items():
            self._pieces[token] = b"" if added.special else added.content.encode()
        self._strips_first_space = not is_bytes

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return self._plain.encode(text, add_special_tokens=True).ids

    def encode_turn(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return self._with_control.encode(text, add_special_tokens=False).ids

    def piece(self, token: int, previous: int) -> bytes:
        """See `Tokenizer`: a space at the very start is dropped where the vocabulary is one of sentencepiece."""
        piece = self._pieces[token]
        if self._strips_first_space and [previous] == self._start:
            return piece.removeprefix(b" ")
        return piece


def _byte_level_piece(piece: str) -> bytes:
    return bytes(_BYTE_OF.get(character, 0x3F) for character in piece)


def _sentencepiece_piece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    return piece.replace("\u2581", " ").encode()


_BYTE_OF = byte_of_character()
