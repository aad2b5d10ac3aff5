"""Damaged files: whatever is in them, reading ends soon, takes memory in proportion, and fails with one clean error."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llama_reference
import numpy as np
import pytest
import safetensors.numpy
from gguf_files import write_gguf
from hypothesis import given
from hypothesis import strategies as st

import hamkaas as hk
from hamkaas.models.llama2 import Config, load_checkpoint, load_tokenizer
from hamkaas.models.llama2.export import export_v0, export_v2
from hamkaas.models.llama2.huggingface import LAYER_NAMES as FOLDER_NAMES

CONFIG = Config(8, 12, 1, 2, 1, 262, 6, True)
NUMBERS = (0, 1, 2, 3, 7, 8, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, 1 << 60, (1 << 64) - 1)
"""What counts and sizes are replaced by."""


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A file with some of its bytes replaced, removed or added, mostly near the start, where sizes are."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.one_of(st.integers(0, min(len(data), 400)), st.integers(0, len(data))))
        number = struct.pack("<Q", draw(st.sampled_from(NUMBERS)))
        match draw(st.sampled_from(["word", "long", "splice", "cut"])):
            case "word":
                data = data[:at] + number[:4] + data[at + 4 :]
            case "long":
                data = data[:at] + number + data[at + 8 :]
            case "splice":
                data = data[:at] + draw(st.binary(max_size=8)) + data[at + draw(st.integers(0, 8)) :]
            case _:
                data = data[:at]
    return data


def read_cleanly(read: Callable[[], object], size: int) -> None:
    """Reads; nothing but a `CheckpointError` may come of it, and no memory that the size does not justify."""
    tracemalloc.start()
    try:
        with suppress(hk.CheckpointError):
            read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (4 << 20) + 64 * size, f"{peak} bytes for a file of {size}"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@cache
def checkpoints() -> tuple[bytes, ...]:
    import tempfile

    from hamkaas.models.llama2 import Checkpoint

    checkpoint = Checkpoint(CONFIG, llama_reference.random_weights(CONFIG))
    with tempfile.TemporaryDirectory() as name:
        export_v0(checkpoint, Path(name) / "v0")
        export_v2(checkpoint, Path(name) / "v2", 4)
        return (Path(name) / "v0").read_bytes(), (Path(name) / "v2").read_bytes()


@given(st.data())
def test_checkpoints(folder: Path, data: st.DataObject) -> None:
    content = data.draw(damaged(checkpoints()))
    (folder / "model.bin").write_bytes(content)
    read_cleanly(lambda: load_checkpoint(folder / "model.bin"), len(content))


@cache
def gguf_files() -> tuple[bytes, ...]:
    import tempfile

    weights = {
        name: weight.astype(np.float16) if weight.ndim > 1 else weight
        for name, weight in llama_reference.random_weights(CONFIG).items()
    }
    files: list[bytes] = []
    for tokenizer in ("llama", "gpt2"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write_gguf(path, CONFIG, weights, tokenizer=tokenizer)
            load_checkpoint(path)
            files.append(path.read_bytes())
    return tuple(files)


@given(st.data())
def test_gguf(folder: Path, data: st.DataObject) -> None:
    content = data.draw(damaged(gguf_files()))
    (folder / "model.gguf").write_bytes(content)
    read_cleanly(lambda: load_checkpoint(folder / "model.gguf"), len(content))


@pytest.mark.parametrize("place", [b"tokenizer.ggml.scores", b"tokenizer.ggml.tokens", b"tokenizer.ggml.token_type"])
@pytest.mark.parametrize("length", [1 << 31, 1 << 60])
def test_gguf_with_an_array_that_is_longer_than_the_file(folder: Path, place: bytes, length: int) -> None:
    content = gguf_files()[0]
    at = content.index(place) + len(place) + 8
    content = content[:at] + struct.pack("<Q", length) + content[at + 8 :]
    (folder / "model.gguf").write_bytes(content)
    with pytest.raises(hk.CheckpointError, match="no GGUF file that can be read: "):
        load_checkpoint(folder / "model.gguf")
    read_cleanly(lambda: load_checkpoint(folder / "model.gguf"), len(content))


def tokenizer_file(*pieces: bytes) -> bytes:
    entries = [struct.pack("<fi", -number, len(piece)) + piece for number, piece in enumerate(pieces)]
    return struct.pack("<i", max(map(len, pieces))) + b"".join(entries)


def sentencepiece_file(*pieces: str) -> bytes:
    def entry(piece: bytes) -> bytes:
        message = b"\x0a" + bytes([len(piece)]) + piece + b"\x15" + struct.pack("<f", -1.0) + b"\x18\x01"
        return b"\x0a" + bytes([len(message)]) + message

    return b"".join(entry(piece.encode()) for piece in pieces) + b"\x12\x02\x18\x02"


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("tokenizer.bin", tokenizer_file(b"a", b"bc", b"d")),
        ("tokenizer.model", sentencepiece_file("a", "\u2581bc", "d")),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}'),
    ],
    ids=["llama2.c", "sentencepiece", "json"],
)
@given(data=st.data())
def test_tokenizers(folder: Path, name: str, whole: bytes, data: st.DataObject) -> None:
    content = data.draw(damaged((whole,)))
    (folder / name).write_bytes(content)
    read_cleanly(lambda: load_tokenizer(folder / name, 3), len(content))


@cache
def safetensors_file() -> bytes:
    known = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm"}
    return safetensors.numpy.save(
        {
            f"{known.get(name) or 'model.layers.0.' + FOLDER_NAMES[name.split('.')[2]]}.weight": weight
            for name, weight in llama_reference.random_weights(CONFIG).items()
        }
    )


DESCRIPTION: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 262,
    "max_position_embeddings": 6,
    "tie_word_embeddings": True,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
}


@given(st.data())
def test_safetensors(folder: Path, data: st.DataObject) -> None:
    path = folder / "model"
    path.mkdir(exist_ok=True)
    content = data.draw(damaged((safetensors_file(),)))
    (path / "config.json").write_text(json.dumps(DESCRIPTION))
    (path / "model.safetensors").write_bytes(content)
    read_cleanly(lambda: load_checkpoint(path), len(content))


@given(st.data())
def test_descriptions(folder: Path, data: st.DataObject) -> None:
    path = folder / "model"
    path.mkdir(exist_ok=True)
    anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), st.lists)
    described = DESCRIPTION | data.draw(st.dictionaries(st.sampled_from([*DESCRIPTION, "head_dim"]), anything))
    whole = safetensors_file()
    (path / "config.json").write_text(json.dumps(described))
    (path / "model.safetensors").write_bytes(whole)
    read_cleanly(lambda: load_checkpoint(path), len(whole))
