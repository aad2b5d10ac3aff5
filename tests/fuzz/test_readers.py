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
from hamkaas.models.llama2 import Config, TextStream, Tokenizer, load_checkpoint, load_tokenizer
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


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(NUMBERS) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
"""Any JSON."""


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> Any:
    """JSON of which one part, at any depth, is replaced."""
    keys: list[Any] = (
        list(whole) if isinstance(whole, dict) else [*range(len(whole))] if isinstance(whole, list) else []
    )
    if not keys or draw(st.integers(0, 3)) == 0:
        return draw(ANYTHING)
    key = draw(st.sampled_from(keys))
    copy = whole.copy()
    copy[key] = draw(changed(whole[key]))
    return copy


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


TEXT = "abc d, <s>\u00eb\n"


def use(tokenizer: Tokenizer | None, size: int) -> None:
    """What is done with a tokenizer once it is read."""
    if tokenizer is None:
        return
    tokens = [*tokenizer.encode(TEXT), *tokenizer.encode_turn(TEXT)]
    assert all(0 <= token < size for token in tokens), tokens
    stream = TextStream(tokenizer)
    for token in range(size):
        stream.push(token, 1)
    stream.finish()


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
        v0, v2 = ((Path(name) / version).read_bytes() for version in ("v0", "v2"))
    # version 1 has version 2's header and floats; which floats is of no matter here
    count = sum(weight.size for weight in checkpoint.weights.values() if isinstance(weight, np.ndarray))
    v1 = v2[:4] + struct.pack("<i", 1) + v2[8:256] + bytes(4 * count)
    return v0, v1, v2


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
    read_cleanly(lambda: use(load_checkpoint(folder / "model.gguf").tokenizer, CONFIG.vocab_size), len(content))


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


def test_gguf_with_an_array_that_takes_the_rest_of_the_file(folder: Path) -> None:
    content = gguf_files()[0]
    at = content.index(b"tokenizer.ggml.scores") + len(b"tokenizer.ggml.scores") + 4
    rest = content[at + 12 :] + bytes(1 << 18)
    content = content[:at] + struct.pack("<IQ", 0, len(rest)) + rest  # of uint8
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
        ("tokenizer.bin", tokenizer_file(b"<unk>", b"<s>", b"</s>", b"a", b"bc", b" ")),
        ("tokenizer.model", sentencepiece_file("<unk>", "<s>", "</s>", "a", "\u2581bc", "\u2581")),
    ],
    ids=["llama2.c", "sentencepiece"],
)
@given(data=st.data())
def test_tokenizers(folder: Path, name: str, whole: bytes, data: st.DataObject) -> None:
    content = data.draw(damaged((whole,)))
    (folder / name).write_bytes(content)
    read_cleanly(lambda: use(load_tokenizer(folder / name, 6), 6), len(content))


TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab"]
JSON_TOKENIZERS: tuple[dict[str, Any], ...] = (
    {
        "version": "1.0",
        "added_tokens": [
            {"id": 1, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
        ],
        "normalizer": {"type": "Prepend", "prepend": "\u2581"},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: number for number, token in enumerate(TOKENS)},
            "merges": ["a b"],
        },
    },
    {
        "version": "1.0",
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u0120": 3}, "merges": [["a", "b"]]},
    },
)
"""In the manner of Llama 2 and of GPT-2."""


@given(st.data())
def test_json_tokenizers(folder: Path, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(JSON_TOKENIZERS))
    if data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(whole))).encode()
    else:
        content = data.draw(damaged((json.dumps(whole).encode(),)))
    (folder / "tokenizer.json").write_bytes(content)
    read_cleanly(lambda: use(load_tokenizer(folder / "tokenizer.json", 262), 262), len(content))


@cache
def safetensors_file() -> bytes:
    known = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm"}
    return safetensors.numpy.save(
        {
            f"{known.get(name) or 'model.layers.0.' + FOLDER_NAMES[name.split('.')[2]]}.weight": weight
            for name, weight in llama_reference.random_weights(CONFIG).items()
        }
    )


DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "config.json": {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "vocab_size": 262,
        "max_position_embeddings": 6,
        "tie_word_embeddings": True,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "eos_token_id": [2],
    },
    "tokenizer_config.json": {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "chat_template": [{"name": "default", "template": "{{ messages }}"}],
    },
    "generation_config.json": {"eos_token_id": [2]},
    "model.safetensors.index.json": {"weight_map": {"model.norm.weight": "model.safetensors"}},
}


def write_folder(folder: Path) -> Path:
    """A model that can be read."""
    path = folder / "model"
    path.mkdir(exist_ok=True)
    for name, description in DESCRIPTIONS.items():
        (path / name).write_text(json.dumps(description))
    (path / "model.safetensors").write_bytes(safetensors_file())
    return path


@given(st.data())
def test_safetensors(folder: Path, data: st.DataObject) -> None:
    path, whole = write_folder(folder), safetensors_file()
    if data.draw(st.booleans()):
        end = 8 + int.from_bytes(whole[:8], "little")
        header = json.dumps(data.draw(changed(json.loads(whole[8:end])))).encode()
        content = struct.pack("<Q", len(header)) + header + whole[end:]
    else:
        content = data.draw(damaged((whole,)))
    (path / "model.safetensors").write_bytes(content)
    read_cleanly(lambda: load_checkpoint(path), len(content))


@given(st.data())
def test_descriptions(folder: Path, data: st.DataObject) -> None:
    path = write_folder(folder)
    name = data.draw(st.sampled_from(list(DESCRIPTIONS)))
    whole = DESCRIPTIONS[name]
    if data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(whole))).encode()
    else:
        content = data.draw(damaged((json.dumps(whole).encode(),)))
    (path / name).write_bytes(content)
    read_cleanly(lambda: load_checkpoint(path), len(content) + len(safetensors_file()))
