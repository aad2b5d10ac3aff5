"""Folders of Hugging Face, sentencepiece models, scaled rotary embedding, and exports to llama2.c's versions."""

import io
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_reference
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import sentencepiece

import hamkaas as hk
from hamkaas.models.llama2 import (
    Chat,
    Config,
    ModelFeed,
    Quantized,
    Sampler,
    Steps,
    Xorshift,
    build_graphs,
    load_checkpoint,
    load_tokenizer,
)
from hamkaas.models.llama2.export import dequantized, export_v0, export_v2
from hamkaas.models.llama2.export_cli import main as export_main
from hamkaas.models.llama2.huggingface import LAYER_NAMES
from hamkaas.models.llama2.rope import rope_divisors

CONFIG = Config(32, 24, 2, 4, 2, 270, 40, False)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
TOKENS = [1, 17, 230, 4, 4, 99, 0, 12, 55, 201, 33]


def their_name(name: str) -> str:
    names = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    if name in names:
        return names[name] + ".weight"
    _, layer, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[kind]}.weight"


def description(config: Config, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.shared_classifier,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "eos_token_id": [2, 7],
        **more,
    }


def write_folder(path: Path, config: Config, weights: dict[str, Any], *, shards: int = 1, **more: Any) -> Path:
    """Weights whose heads turn by halves, as these folders have them."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(description(config, **more)))
    tensors = {their_name(name): weight for name, weight in weights.items()}
    if shards == 1:
        safetensors.numpy.save_file(tensors, path / "model.safetensors")
        return path
    index: dict[str, str] = {}
    for shard in range(shards):
        names = sorted(tensors)[shard::shards]
        file = f"model-{shard}.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in names}, path / file)
        index |= dict.fromkeys(names, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return path


def logits_of(path: Path) -> Any:
    checkpoint = load_checkpoint(path)
    with hk.compile(build_graphs(checkpoint.config, checkpoint.weights, 8), target="cpu") as model:
        return ModelFeed(model, checkpoint.config)(TOKENS, 0)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_logits(tmp_path: Path, shards: int, dtype: Any) -> None:
    weights = {name: w.astype(dtype) for name, w in llama_reference.random_weights(CONFIG).items()}
    path = write_folder(tmp_path / "model", CONFIG, weights, shards=shards)
    expected = llama_reference.logits(CONFIG, weights, TOKENS, halves=True)[-1]
    np.testing.assert_allclose(logits_of(path), expected, rtol=0, atol=1e-4)
    checkpoint = load_checkpoint(path)
    assert checkpoint.stop == {2, 7}
    w1 = checkpoint.weights["layers.0.w1"]
    assert isinstance(w1, np.ndarray)
    assert w1.dtype == dtype
    assert not w1.flags.owndata


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rope_of_llama3(tmp_path: Path, key: str) -> None:
    weights = llama_reference.random_weights(CONFIG)
    path = write_folder(tmp_path / "model", CONFIG, weights, **{key: LLAMA3})
    divisors = np.array(load_checkpoint(path).config.rope_divisors)
    # by the formula of the original: wave lengths against 16 / 4 and 16 / 1
    waves = 2 * np.pi * 10000.0 ** (np.arange(4) / 4)
    smooth = (16 / waves - 1) / 3
    expected = np.where(waves < 4, 1, np.where(waves > 16, 8, 1 / ((1 - smooth) / 8 + smooth)))
    np.testing.assert_allclose(divisors, expected)
    reference = llama_reference.logits(CONFIG, weights, TOKENS, halves=True, divisors=expected)[-1]
    np.testing.assert_allclose(logits_of(path), reference, rtol=0, atol=1e-4)


def test_rope_kinds() -> None:
    assert rope_divisors({}, 10000.0, 8) == ()
    assert rope_divisors({"type": "linear", "factor": 4}, 10000.0, 8) == (4.0,) * 4
    with pytest.raises(ValueError, match="expected rotary embedding scaled as default, linear or llama3, got 'yarn'"):
        rope_divisors({"rope_type": "yarn", "factor": 4}, 10000.0, 8)
    with pytest.raises(ValueError, match="expected rope_scaling with a positive number for factor, got None"):
        rope_divisors({"rope_type": "linear"}, 10000.0, 8)


def _cut(path: Path, name: str, end: int) -> None:
    (path / name).write_bytes((path / name).read_bytes()[:end])


def _add(path: Path, shape: list[int]) -> None:
    """One more tensor, without elements."""
    data = (path / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end]) | {"more": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    written = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(written).to_bytes(8, "little") + written + data[end:])


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda p: (p / "config.json").unlink(), "config.json: cannot be read: No such file or directory"),
    (lambda p: (p / "config.json").write_text("{"), "config.json: expected JSON"),
    (lambda p: (p / "config.json").write_text("[]"), "config.json: expected a JSON object, got list"),
    (lambda p: change(p, model_type="mamba"), "config.json: expected model_type 'llama', got 'mamba'"),
    (lambda p: change(p, hidden_size="many"), "config.json: expected dim between 1 and 65536, got 'many'"),
    (lambda p: change(p, num_attention_heads=5), "config.json: expected heads that divide dim"),
    (lambda p: change(p, rope_theta=-1), "config.json: expected rope_theta to be a positive number, got -1.0"),
    (lambda p: change(p, rope_scaling={"type": "yarn"}), "config.json: expected rotary embedding scaled as default"),
    (lambda p: change(p, head_dim=99), "config.json: expected head_dim 8, got 99"),
    (lambda p: change(p, intermediate_size=25), "expected shape [25, 32], got [24, 32]"),
    (lambda p: change(p, num_hidden_layers=3), "expected a tensor model.layers.2."),
    (lambda p: _cut(p, "model.safetensors", 0), "model.safetensors: cannot be read"),
    (lambda p: _cut(p, "model.safetensors", 7), "model.safetensors: no safetensors file"),
    (lambda p: _cut(p, "model.safetensors", 100), "model.safetensors: no safetensors file"),
    (lambda p: _cut(p, "model.safetensors", -1), "expected bytes within"),
    (lambda p: _add(p, [0, 1 << 70]), "more: expected a shape that an array can have"),
    (lambda p: _add(p, [1] * 99 + [0]), "more: expected a shape that an array can have"),
    (
        lambda p: (p / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret"}}'),
        "expected names of files in the same folder, got '../secret'",
    ),
    (lambda p: (p / "tokenizer.json").write_text("{}"), "tokenizer.json: no tokenizer that can be read"),
    (lambda p: (p / "tokenizer.model").write_text("\n\x7f"), "tokenizer.model: no sentencepiece model: truncated"),
]


def change(path: Path, **values: Any) -> None:
    (path / "config.json").write_text(json.dumps(description(CONFIG) | values))


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_broken_folders(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    path = write_folder(tmp_path / "model", CONFIG, llama_reference.random_weights(CONFIG))
    damage(path)
    with pytest.raises(hk.CheckpointError, match=re.escape(message)):
        load_checkpoint(path)


# tokenizers


TEXT = "the quick brown fox jumps over the lazy dog and the dog is not amused by foxes that jump over dogs. " * 5


@pytest.fixture(scope="module")
def trained() -> bytes:
    """A sentencepiece model of 300 pieces, of the kind that Llama 2 has."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split(". ")),
        model_writer=written,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=3,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
    )
    return written.getvalue()


def test_sentencepiece(tmp_path: Path, trained: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained)
    library = sentencepiece.SentencePieceProcessor(model_proto=trained)
    tokenizer = load_tokenizer(tmp_path / "tokenizer.model", library.vocab_size())
    for text in (TEXT, "the dog", " two  spaces ", "Zoë ☂\n"):
        assert tokenizer.encode(text) == [1, *library.encode(text)]
    assert tokenizer.encode_turn("</s>") == [2]
    assert tokenizer.piece(2, 0) == b""
    with pytest.raises(hk.CheckpointError, match="expected 999 tokens, as the checkpoint has, got 300"):
        load_tokenizer(tmp_path / "tokenizer.model", 999)


def byte_level_json() -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=265, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    return tokenizer.to_str()


def test_tokenizer_json_and_chat(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "model", CONFIG, llama_reference.random_weights(CONFIG))
    (path / "tokenizer.json").write_text(byte_level_json())
    template = "{% for m in messages %}{{ bos_token }}{{ m.role }} {{ m.content }}{{ eos_token }}{% endfor %}"
    names = {"chat_template": template, "bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    checkpoint = load_checkpoint(path)
    tokenizer = checkpoint.tokenizer
    assert tokenizer is not None
    tokens = tokenizer.encode("the Zoë ☂ <|im_end|>")
    assert b"".join(tokenizer.piece(token, -1) for token in tokens).decode() == "the Zoë ☂ <|im_end|>"
    (start,) = tokenizer.encode_turn("<|im_start|>")
    assert tokenizer.piece(start, -1) == b""
    fed: list[int] = []

    def feed(tokens: Any, _: int) -> Any:
        fed.extend(tokens)
        return np.eye(CONFIG.vocab_size, dtype=np.float32)[7]

    assert list(Chat(checkpoint, Steps(feed, Sampler(0, 0, Xorshift(1)))).reply("dog")) == []
    assert fed == tokenizer.encode_turn("<|im_start|>user dog<|im_end|>")
    with pytest.raises(hk.CheckpointError, match=r"expected tokens from 0 to 9, as the checkpoint has, got 26\d"):
        load_tokenizer(path / "tokenizer.json", 10)


def test_a_tokenizer_json_with_tokens_that_the_model_does_not_have(tmp_path: Path) -> None:
    description: dict[str, Any] = json.loads(byte_level_json())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description))
    load_tokenizer(path, 300)
    # few tokens, but one of a large number
    vocabulary = dict(description["model"]["vocab"], a=300)
    path.write_text(json.dumps(description | {"model": description["model"] | {"vocab": vocabulary}}))
    with pytest.raises(hk.CheckpointError, match="expected tokens from 0 to 299, as the checkpoint has, got 300"):
        load_tokenizer(path, 300)
    # each text begins with a token of a large number
    start = {"id": "<s>", "ids": [1 << 20], "tokens": ["<s>"]}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": start},
    }
    path.write_text(json.dumps(description | {"post_processor": template}))
    with pytest.raises(hk.CheckpointError, match="expected tokens from 0 to 299, as the checkpoint has, got 1048576"):
        load_tokenizer(path, 300)
    # each text begins with a token that the template does not describe: the package panics
    path.write_text(json.dumps(description | {"post_processor": template | {"special_tokens": {}}}))
    with pytest.raises(hk.CheckpointError, match="no tokenizer that can be read"):
        load_tokenizer(path, 300)


# export


def test_exports_are_the_files_of_llama2c(models: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(models / "stories260K_v1.bin")
    export_v2(checkpoint, tmp_path / "v2.bin", 4)
    assert (tmp_path / "v2.bin").read_bytes() == (models / "stories260K_v2_q80_gs4.bin").read_bytes()
    export_v0(checkpoint, tmp_path / "v0.bin")
    ours, theirs = (np.fromfile(file, np.float32) for file in (tmp_path / "v0.bin", models / "stories260K.bin"))
    np.testing.assert_array_equal(ours[:7].view(np.int32), theirs[:7].view(np.int32))
    np.testing.assert_allclose(ours[7:], theirs[7:], rtol=0, atol=1e-7)  # the tables of rotations differ in a bit


def test_export_into_a_folder_that_is_not_there(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_main([str(models / "stories260K.bin"), "no/model.bin"]) == 1
    assert capsys.readouterr().err == "hamkaas-export: error: no/model.bin: No such file or directory\n"


def test_export_into_a_pipe(tmp_path: Path) -> None:
    # a device or a pipe is written to: it must not be replaced by a file
    path = write_folder(tmp_path / "model", CONFIG, llama_reference.random_weights(CONFIG))
    os.mkfifo(tmp_path / "pipe")
    content: list[bytes] = []
    reader = threading.Thread(target=lambda: content.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    assert export_main([str(path), str(tmp_path / "pipe")]) == 0
    reader.join(10)
    assert export_main([str(path), str(tmp_path / "file")]) == 0
    assert content == [(tmp_path / "file").read_bytes()]
    assert (tmp_path / "pipe").is_fifo()


def test_export_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {name: w.astype(ml_dtypes.bfloat16) for name, w in llama_reference.random_weights(CONFIG).items()}
    path = write_folder(tmp_path / "model", CONFIG, weights)
    assert export_main([str(path), str(tmp_path / "v0.bin")]) == 0
    np.testing.assert_allclose(logits_of(tmp_path / "v0.bin"), logits_of(path), rtol=0, atol=1e-5)
    assert export_main([str(path), str(tmp_path / "v2.bin"), "--version", "2", "--group", "8"]) == 0
    rounded = load_checkpoint(tmp_path / "v2.bin")
    assert isinstance(rounded.weights["output"], Quantized)
    original = load_checkpoint(path).weights["output"]
    np.testing.assert_allclose(dequantized(rounded.weights["output"]), dequantized(original), rtol=0, atol=0.01)
    capsys.readouterr()
    assert export_main([str(path), str(tmp_path / "no.bin"), "--version", "2", "--group", "7"]) == 1
    assert "expected groups that divide dim 32 and hidden_dim 24, got 7" in capsys.readouterr().err
    stretched = write_folder(tmp_path / "model", replace(CONFIG, rope_theta=5e5), weights)
    assert export_main([str(stretched), str(tmp_path / "no.bin")]) == 1
    assert "has no place for rope_theta: expected 10000.0, got 500000.0" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "v0.bin", "v2.bin"]
