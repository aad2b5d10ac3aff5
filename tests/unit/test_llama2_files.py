"""Model files: what each version holds, and what is said of files that are damaged or of another kind."""

import re
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hamkaas as hk
from hamkaas.models.llama2 import Checkpoint, Quantized, load_checkpoint, load_tokenizer

SIZES = (8, 12, 2, 4, 2, 10, 6)
"""dim, hidden_dim, layers, heads, kv heads, vocabulary, positions"""
FLOATS_V0 = 10 * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 96 + 96 + 96) + 8 + 2 * 6
"""Number of floats after the header; the classifier is shared."""


def v0(*, unshared: bool = False) -> bytes:
    dim, hidden, layers, heads, kv_heads, vocab, positions = SIZES
    count = FLOATS_V0 + (vocab * dim if unshared else 0)
    header = struct.pack("<7i", dim, hidden, layers, heads, kv_heads, -vocab if unshared else vocab, positions)
    return header + np.arange(count, dtype="<f4").tobytes()


def tagged(version: int, group: int = 0, shared: int = 1) -> bytes:
    header = struct.pack("<Ii7iBi", 0x616B3432, version, *SIZES, shared, group).ljust(256, b"\0")
    norms, matrices = 2 * 2 * 8 + 8, 10 * 8 + 2 * (64 + 32 + 32 + 64 + 96 * 3)
    if version == 1:
        return header + np.arange(norms + matrices, dtype="<f4").tobytes()
    return header + np.arange(norms, dtype="<f4").tobytes() + bytes(matrices + 4 * matrices // group)


def load(tmp_path: Path, data: bytes) -> Checkpoint:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    return load_checkpoint(path)


def test_v0(tmp_path: Path) -> None:
    checkpoint = load(tmp_path, v0(unshared=True))
    assert checkpoint.config.kv_dim == 4
    assert not checkpoint.config.shared_classifier
    numbers = {name: (w.shape, w.flat[0]) for name, w in checkpoint.weights.items() if isinstance(w, np.ndarray)}
    assert numbers["tok_embeddings"] == ((10, 8), 0)
    assert numbers["layers.1.attention_norm"] == ((8,), 88)
    assert numbers["layers.0.wk"] == ((4, 8), 80 + 16 + 128)
    assert numbers["layers.1.w3"] == ((12, 8), 80 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 96 + 96) + 96)
    assert numbers["output"] == ((10, 8), FLOATS_V0)
    assert checkpoint.step_bytes == checkpoint.nbytes - 4 * 80


def test_v1(tmp_path: Path) -> None:
    weights = load(tmp_path, tagged(1)).weights
    assert weights["layers.1.ffn_norm"].flat[0] == 24  # type: ignore[union-attr]
    assert weights["tok_embeddings"].flat[0] == 40  # type: ignore[union-attr]


def test_v2(tmp_path: Path) -> None:
    weights = load(tmp_path, tagged(2, group=4)).weights
    assert isinstance(weights["norm"], np.ndarray)
    wq = weights["layers.0.wq"]
    assert isinstance(wq, Quantized)
    assert (wq.values.shape, wq.scales.shape) == ((8, 8), (8, 2))


def test_all_versions_of_one_model_agree(models: Path) -> None:
    zero, one, two = (load_checkpoint(models / f"stories260K{kind}.bin") for kind in ("", "_v1", "_v2_q80_gs4"))
    assert zero.weights.keys() == one.weights.keys() == two.weights.keys()
    for name, weight in zero.weights.items():
        assert isinstance(weight, np.ndarray)
        np.testing.assert_array_equal(weight, one.weights[name])
        rounded = two.weights[name]
        if isinstance(rounded, Quantized):
            group = weight.shape[-1] // rounded.scales.shape[-1]
            scales = np.repeat(rounded.scales, group, axis=-1)
            assert np.all(np.abs(rounded.values * scales - weight) <= 0.5001 * scales)


def replace_word(data: bytes, place: int, value: int) -> bytes:
    return data[: 4 * place] + struct.pack("<i", value) + data[4 * place + 4 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: expected a header of 28 bytes, got 0"),
        (v0()[:20], "truncated: expected a header of 28 bytes, got 20"),
        (v0()[:-1], f"truncated: expected {len(v0())} bytes for the sizes in its header, got {len(v0()) - 1}"),
        (v0() + b"x", f"too long: expected {len(v0())} bytes for the sizes in its header, got {len(v0()) + 1}"),
        (replace_word(v0(), 0, -8), "no llama2.c checkpoint: expected dim between 1 and 65536, got -8"),
        (
            replace_word(v0(), 2, 10**9),
            "no llama2.c checkpoint: expected num_layers between 1 and 1024, got 1000000000",
        ),
        (replace_word(v0(), 3, 3), "no llama2.c checkpoint: expected heads that divide dim into even sizes"),
        (replace_word(v0(), 5, 0), "no llama2.c checkpoint: expected vocab_size between 1 and 4194304, got 0"),
        (tagged(1)[:100], "truncated: expected a header of 256 bytes, got 100"),
        (replace_word(tagged(1), 1, 7), "expected a llama2.c checkpoint of version 0, 1 or 2, got version 7"),
        (tagged(2, group=4)[:-4], "truncated: expected"),
        (tagged(2, group=5), "expected groups that divide dim 8 and hidden_dim 12, got 5"),
        (b"GGUF" + bytes(100), "no GGUF file that can be read"),
        (b"PK\3\4 some other file, long enough", "no llama2.c checkpoint: expected dim between"),
    ],
)
def test_bad_checkpoints(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(hk.CheckpointError, match=re.escape(f"model.bin: {message}")):
        load(tmp_path, data)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(hk.CheckpointError, match=r"nothing.bin: cannot be read: No such file or directory"):
        load_checkpoint(tmp_path / "nothing.bin")


def tokenizer_file(*pieces: bytes) -> bytes:
    entries = [struct.pack("<fi", -number, len(piece)) + piece for number, piece in enumerate(pieces)]
    return struct.pack("<i", max(map(len, pieces))) + b"".join(entries)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: expected a tokenizer, got 0 bytes"),
        (tokenizer_file(b"a", b"bc"), "expected 3 tokens, as the checkpoint has, got 2"),
        (tokenizer_file(b"a", b"bc", b"d")[:-6], "truncated in token 2"),
        (tokenizer_file(b"a", b"bc", b"d")[:-1], "no llama2.c tokenizer: expected token 2 of 0 to 2 bytes, got 1"),
        (tokenizer_file(b"a", b"bc", b"d").replace(b"\2\0\0\0bc", b"\xff\0\0\0bc"), "no llama2.c tokenizer"),
    ],
)
def test_bad_tokenizers(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(data)
    with pytest.raises(hk.CheckpointError, match=re.escape(f"tokenizer.bin: {message}")):
        load_tokenizer(path, 3)


def only_clean_errors(read: Callable[[], object]) -> None:
    with suppress(hk.CheckpointError):
        read()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_give_clean_errors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([v0(), tagged(1), tagged(2, group=4), tokenizer_file(b"a", b"bc", b"d")]))
    start, length = data.draw(st.integers(0, 280)), data.draw(st.integers(0, 8))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[start + length :]
    path = tmp_path_factory.mktemp("fuzz") / "file.bin"
    path.write_bytes(damaged)
    only_clean_errors(lambda: load_checkpoint(path))
    only_clean_errors(lambda: load_tokenizer(path, 3))
