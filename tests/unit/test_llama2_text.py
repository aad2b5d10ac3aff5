"""Tokens, text and sampling, against slow and obvious versions of the same."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hamkaas as hk
from hamkaas.models.llama2 import (
    BOS,
    TEMPLATES,
    Chat,
    Checkpoint,
    Config,
    Sampler,
    ScoredTokenizer,
    Steps,
    StopStrings,
    TextStream,
    Xorshift,
    generate,
    load_tokenizer,
    with_template,
)

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


def test_a_vocabulary_without_bytes() -> None:
    # of characters, say: what it cannot spell is unknown, and no token that does not exist
    tokenizer = ScoredTokenizer((b"<unk>", b"<s>", b"</s>", b" ", b"a", b"b"), (0.0,) * 6)
    assert tokenizer.encode("a\u00ebb") == [BOS, 3, 4, 0, 0, 5]


def test_a_control_token_that_is_no_text() -> None:
    tokenizer = ScoredTokenizer((*TOY.pieces, b"\xff"), (*TOY.scores, 0.0), frozenset((2, len(TOY.pieces))))
    assert tokenizer.encode_turn("a\n</s>\n") == [*TOY.encode("a")[1:], 2]


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
    # each text begins as a text of its own does, with a space
    assert tokens == [*TOY.encode("ab")[1:], 2, *TOY.encode("c")[1:]]
    assert tokenizer.piece(2, 0) == b""
    assert TOY.encode_turn("ab") == TOY.encode("ab")[1:]


# sampling


def test_xorshift_is_the_generator_of_llama2c() -> None:
    rng, state = Xorshift(133742), np.uint64(133742)
    multiplier, low = np.uint64(0x2545F4914F6CDD1D), (np.uint64(12), np.uint64(25), np.uint64(27))
    for _ in range(100):
        state ^= state >> low[0]
        state ^= state << low[1]
        state ^= state >> low[2]
        with np.errstate(over="ignore"):
            bits = (state * multiplier) >> np.uint64(32)
        assert rng.next_float() == np.float32(int(bits) >> 8) / np.float32(16777216)


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

    source = Steps(feed, Sampler(0, 0.9, Xorshift(1)))
    assert list(generate(source, [1, 2, 3], 10, {2})) == [(2, 1), (3, 2), (7, 3)]
    assert list(generate(source, [1, 2, 3], 2, {2})) == [(2, 1), (3, 2)]


@pytest.mark.parametrize(
    ("cuts", "allowed"),
    [({"top_k": 1}, {1}), ({"top_k": 2}, {1, 3}), ({"top_k": 9}, set(range(5))), ({"min_p": 0.2}, {1, 3, 4})],
)
def test_cuts(cuts: dict[str, float], allowed: set[int]) -> None:
    logits = np.array([0.1, 2.0, -1.0, 1.0, 0.5], np.float32)
    sampler = Sampler(1.0, 1.0, Xorshift(3), **cuts)  # type: ignore[arg-type]
    assert {sampler.sample(logits) for _ in range(1000)} == allowed


def test_penalty() -> None:
    logits = np.array([2.0, 1.5, -1.0, -1.1], np.float32)
    sampler = Sampler(0, 1.0, Xorshift(1), penalty=1.5)
    assert sampler.sample(logits) == 0
    assert sampler.sample(logits, [0, 0]) == 1
    assert Sampler(0, 1.0, Xorshift(1), penalty=1.2).sample(logits[2:], [0, 7 - 7]) == 1
    np.testing.assert_array_equal(logits, np.array([2.0, 1.5, -1.0, -1.1], np.float32))


# stop strings


def up_to(text: str, stops: Sequence[str]) -> str:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))]


@given(st.lists(st.text("ab", max_size=4), max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_strings(pieces: list[str], stops: list[str]) -> None:
    stream = StopStrings(stops)
    shown = text = ""
    for piece in pieces:
        shown += stream.push(piece)
        text += piece
        assert text.startswith(shown)
        if stream.found:
            break
        # held back is only what may yet become a stop string
        held = text[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)
    assert stream.found == any(stop in text for stop in stops)
    assert shown + stream.finish() == up_to(text, stops)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="expected stop strings that are not empty"):
        StopStrings(["a", ""])


# chats


def conversation(template: str) -> tuple[list[str], Chat]:
    """What is fed, as text, and a chat with a model that answers "ab" and stops."""
    fed: list[str] = []
    answer = TOY.token_of[b"ab"]

    def feed(tokens: Sequence[int], start: int) -> np.ndarray:
        fed.append(b"".join(tokenizer.pieces[token] for token in tokens).decode())
        return np.eye(len(TOY.pieces), dtype=np.float32)[2 if tokens[-1] == answer else answer]

    tokenizer = TOY
    config = Config(8, 8, 1, 1, 1, len(TOY.pieces), 400, True)
    checkpoint = with_template(Checkpoint(config, {}, tokenizer), "llama2")
    assert checkpoint.stop == {1, 2}
    return fed, Chat(replace(checkpoint, chat_template=template), Steps(feed, Sampler(0, 0, Xorshift(1))), "be c")


def test_template_of_llama2() -> None:
    fed, chat = conversation(TEMPLATES["llama2"])
    assert list(chat.reply("a b")) == ["ab"]
    spelt = [re.sub("<0x([0-9A-F]{2})>", lambda byte: chr(int(byte[1], 16)), text) for text in fed]
    bos, eos = TOY.pieces[1].decode(), TOY.pieces[2].decode()
    first = f"{bos} [INST] <<SYS>>\nbe c\n<</SYS>>\n\na b [/INST]"
    assert spelt == [first, "ab"]
    fed.clear()
    assert list(chat.reply("c")) == ["ab"]
    spelt = [re.sub("<0x([0-9A-F]{2})>", lambda byte: chr(int(byte[1], 16)), text) for text in fed]
    assert spelt[0].endswith(f"ab {eos}{bos} [INST] c [/INST]")


def test_chatml() -> None:
    fed, chat = conversation(TEMPLATES["chatml"])
    list(chat.reply("a"))
    spelt = re.sub("<0x([0-9A-F]{2})>", lambda byte: chr(int(byte[1], 16)), fed[0])
    turns = (("system", "be c"), ("user", "a"))
    parts = [f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns]
    assert spelt == " " + "".join(parts) + "<|im_start|>assistant\n"


def test_broken_templates() -> None:
    with pytest.raises(hk.CheckpointError, match="the chat template of the model is broken"):
        conversation("{% if %}")
    _, chat = conversation("{{ raise_exception('no system') }}")
    with pytest.raises(hk.InputError, match="refuses this conversation: no system"):
        list(chat.reply("a"))


def test_an_interrupted_answer_is_kept() -> None:
    _, chat = conversation(TEMPLATES["chatml"])
    answer = chat.reply("a")
    assert next(answer) == "ab"
    answer.close()  # type: ignore[attr-defined]
    assert [message["content"] for message in chat.messages] == ["be c", "a", "ab"]
