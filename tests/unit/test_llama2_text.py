"""Tokens, text and sampling, against slow and obvious versions of the same."""

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hamkaas.models.llama2 import BOS, Sampler, ScoredTokenizer, TextStream, Xorshift, generate, load_tokenizer

PIECES = (b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256)))
WORDS = (b" ", b"a", b"b", b"c", b"ab", b"bc", b"abc", b" a", b"aa", b"aaaa", b"ca", b"a b")
SCORES = (-1, -2, -3, -4, -0.5, -0.7, -0.1, -0.6, -0.9, -0.2, -0.8, -0.3)
TOY = ScoredTokenizer((*PIECES, *WORDS), (*[0.0] * len(PIECES), *SCORES))


def naive(tokenizer: ScoredTokenizer, text: str) -> list[int]:
    """The encoder of llama2.c: look at all pairs, join the best and leftmost, again and again."""
    if not text:
        return [BOS]
    tokens = [tokenizer.token_of[b" "]]
    for character in text:
        piece = character.encode()
        tokens += [tokenizer.token_of[piece]] if piece in tokenizer.token_of else [byte + 3 for byte in piece]
    while True:
        best: tuple[float, int, int] | None = None
        for place in range(len(tokens) - 1):
            joint = tokenizer.pieces[tokens[place]] + tokenizer.pieces[tokens[place + 1]]
            token = tokenizer.token_of.get(joint)
            if token is not None and (best is None or tokenizer.scores[token] > best[0]):
                best = (tokenizer.scores[token], place, token)
        if best is None:
            return [BOS, *tokens]
        tokens[best[1] : best[1] + 2] = [best[2]]


@settings(max_examples=300)
@given(st.text(alphabet="abc é☂\n", max_size=40))
def test_encode_is_the_encoder_of_llama2c(text: str) -> None:
    assert TOY.encode(text) == naive(TOY, text)


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_text_survives(models: Path, text: str) -> None:
    tokenizer = load_tokenizer(models / "tokenizer.bin", 32000)
    tokens = tokenizer.encode(text)
    assert tokens == naive(tokenizer, text)
    decoded = b"".join(tokenizer.piece(token, previous) for previous, token in pairwise(tokens))
    assert decoded.decode() == text


def test_long_prompts_are_encoded_fast(models: Path) -> None:
    tokenizer = load_tokenizer(models / "tokenizer.bin", 32000)
    text = "the quick brown fox jumps over the lazy dog and " * 1000
    tokenizer.encode("")
    started = time.perf_counter()
    assert len(tokenizer.encode(text)) > 10_000
    assert time.perf_counter() - started < 2  # what looks at all pairs takes minutes


def test_a_character_split_over_tokens_is_held_back() -> None:
    stream = TextStream(TOY)
    umbrella = [byte + 3 for byte in "☂".encode()]
    assert [stream.push(token, 0) for token in umbrella] == ["", "", "☂"]
    assert stream.push(umbrella[0], 0) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_control_characters_are_dropped() -> None:
    stream = TextStream(TOY)
    assert "".join(stream.push(byte + 3, 0) for byte in b"\x00\x07\n\tA\x7f") == "\n\tA"


def test_control_tokens_in_a_chat() -> None:
    tokenizer = ScoredTokenizer(TOY.pieces, TOY.scores, frozenset((1, 2)))
    tokens = tokenizer.encode_turn("ab\n</s>\nc")
    assert tokens == [TOY.token_of[b"ab"], 2, TOY.token_of[b"c"]]
    assert tokenizer.piece(2, 0) == b""
    assert TOY.encode_turn("ab") == [TOY.token_of[b"ab"]]


# sampling


def test_xorshift_is_the_generator_of_llama2c() -> None:
    # by hand: state 1 becomes 1 ^ 1 << 25, then ^ its upper part (>> 27: 0)
    rng = Xorshift(1)
    state = 1 ^ (1 << 25)
    expected = ((state * 0x2545F4914F6CDD1D) % 2**64 >> 32 >> 8) / 2**24
    assert rng.next_float() == np.float32(expected)
    assert all(0 <= rng.next_float() < 1 for _ in range(1000))


def test_greedy_takes_the_first_of_equals() -> None:
    assert Sampler(0, 0.9, Xorshift(1)).sample(np.array([1, 3, 3, 2], np.float32)) == 1


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.0), (0.5, 0.7), (1.5, 0.3), (1.0, 0.9)])
def test_frequencies(temperature: float, top_p: float) -> None:
    logits = np.array([0.1, 2.0, -1.0, 1.0, 0.5], np.float32)
    p = np.exp(logits / temperature)
    p /= p.sum()
    if 0 < top_p < 1:
        order = np.argsort(-p)
        kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p, side="right")) + 1]
        p = np.where(np.isin(np.arange(5), kept), p, 0)
        p /= p.sum()
    sampler = Sampler(temperature, top_p, Xorshift(42))
    counts = np.bincount([sampler.sample(logits) for _ in range(4000)], minlength=5)
    np.testing.assert_allclose(counts / 4000, p, atol=0.03)
    assert np.all(counts[p == 0] == 0)


def test_a_stop_token_in_the_prompt_does_not_stop() -> None:
    script = {0: 5, 1: 6, 2: 7, 3: 2, 4: 8}

    def feed(tokens: Sequence[int], start: int) -> np.ndarray:
        return np.eye(10, dtype=np.float32)[script[start + len(tokens) - 1]]

    sampler = Sampler(0, 0.9, Xorshift(1))
    assert list(generate(feed, [1, 2, 3], sampler, 10, {2})) == [(2, 1), (3, 2), (7, 3)]
    assert list(generate(feed, [1, 2, 3], sampler, 2, {2})) == [(2, 1), (3, 2)]
