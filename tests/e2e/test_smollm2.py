"""A real chat model: SmolLM2-135M-Instruct from its GGUF file, token by token as the reference has it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_llama2 import run

import hamkaas as hk
from hamkaas.models.llama2 import (
    Chat,
    Checkpoint,
    ModelFeed,
    Sampler,
    Steps,
    Xorshift,
    build_graphs,
    generate,
    load_checkpoint,
)


@pytest.fixture(scope="module")
def loaded(smollm2: Path) -> Iterator[tuple[Checkpoint, ModelFeed]]:
    checkpoint = load_checkpoint(smollm2)
    with hk.compile(build_graphs(checkpoint.config, checkpoint.weights, 64), target="cpu") as model:
        yield checkpoint, ModelFeed(model, checkpoint.config)


@pytest.fixture(scope="module")
def chats(models: Path) -> list[dict[str, Any]]:
    return json.loads((models / "expected" / "smollm2_135m_chats.json").read_text())


def test_greedy_tokens(loaded: tuple[Checkpoint, ModelFeed], chats: list[dict[str, Any]]) -> None:
    checkpoint, feed = loaded
    assert checkpoint.stop == {2}
    for chat in chats:
        prompt, expected = chat["prompt_ids"], chat["greedy_ids"]
        source = Steps(feed, Sampler(0, 0.9, Xorshift(1)))
        pairs = generate(source, prompt, len(prompt) + len(expected), frozenset())
        assert [token for token, _ in pairs][len(prompt) - 1 :][: len(expected)] == expected


def test_prompts(loaded: tuple[Checkpoint, ModelFeed], chats: list[dict[str, Any]]) -> None:
    checkpoint, _ = loaded
    assert checkpoint.tokenizer is not None
    for chat in chats:
        system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
        text = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{chat['user']}<|im_end|>\n"
        assert checkpoint.tokenizer.encode_turn(text + "<|im_start|>assistant\n") == chat["prompt_ids"]
    # in a plain text the names of control tokens are text
    assert 1 not in checkpoint.tokenizer.encode("<|im_start|>")


def test_turns_keep_the_cache(loaded: tuple[Checkpoint, ModelFeed], chats: list[dict[str, Any]]) -> None:
    checkpoint, feed = loaded
    fed: list[int] = []

    def counted(tokens: Sequence[int], start: int) -> Any:
        fed.extend(range(start, start + len(tokens)))
        return feed(tokens, start)

    chat = Chat(checkpoint, Steps(counted, Sampler(0, 0.9, Xorshift(1))))
    assert "".join(chat.reply(chats[0]["user"])) == chats[0]["text"]
    first = len(fed)
    assert "Rome" in "".join(chat.reply("And what is the capital of Italy?"))
    assert fed[first] == first  # goes on where the first answer ended
    chat.reset()
    second = len(fed)
    assert "".join(chat.reply(chats[1]["user"])) == chats[1]["text"]
    assert fed[second] > 20  # the system prompt stays in the cache


def test_chat_mode(smollm2: Path, tmp_path: Path) -> None:
    lines = f"And of Italy?\n/stats\n/save {tmp_path}/chat.json\n/reset\n/nonsense\n"
    done = run(smollm2, "-m", "chat", "-t", 0, "--target", "cpu", "-i", "What is the capital of France?", stdin=lines)
    assert done.returncode == 0
    assert done.stdout == "The capital of France is Paris.\nThe capital of Italy is Rome.\n"
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["#", "saved", "the", "/help,", "#"]
    assert [message["role"] for message in json.loads((tmp_path / "chat.json").read_text())] == [
        "user",
        "assistant",
    ] * 2


def test_chat_mode_in_bursts(smollm2: Path) -> None:
    # the answers end within a burst, and the next turn goes on from there
    done = run(
        smollm2, "-m", "chat", "-t", 0, "--target", "cpu", "-q", "--burst", 16, "-i", "What is the capital of France?",
        stdin="And of Italy?\n"
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The capital of France is Paris.\nThe capital of Italy is Rome.\n"


def test_a_full_context(smollm2: Path) -> None:
    done = run(smollm2, "-m", "chat", "-t", 0, "--target", "cpu", "-c", 24, "-i", "Hello", stdin="")
    assert done.returncode == 1
    assert "the context 24: it is full" in done.stderr
