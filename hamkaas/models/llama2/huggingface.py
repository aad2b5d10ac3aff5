"""Folders of Hugging Face: `config.json`, weights as safetensors in one file or several, tokenizer and template.

The halves of a head turn together there, neighbours in llama2.c's order: rows of queries and keys are moved. Weights
of 16 bits stay as they are in the file, which is memory-mapped.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hamkaas.errors import CheckpointError
from hamkaas.models.llama2.bpe import JsonTokenizer
from hamkaas.models.llama2.checkpoint import Checkpoint, Shelf, Weight
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.rope import rope_divisors
from hamkaas.models.llama2.safetensors import read_safetensors
from hamkaas.models.llama2.sentencepiece import load_sentencepiece
from hamkaas.models.llama2.tokenizer import BOS, EOS, Tokenizer

LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
}
"""What we call the weights of a layer, and what these folders do."""


def load_folder(path: Path, progress: Callable[[int, int], None] | None = None) -> Checkpoint:
    """Reads a model. Raises `CheckpointError` for another architecture, and for files that are missing or damaged."""
    described = _read_json(path / "config.json")
    config = _read_config(path / "config.json", described)
    files = _weight_files(path)
    tensors = {name: tensor for file in files for name, tensor in read_safetensors(file).items()}
    weights: dict[str, Weight] = {}
    shelf = Shelf()
    expected = dict(config.weight_shapes())
    for number, (name, shape) in enumerate(expected.items()):
        tensor = tensors.get(_their_name(name))
        if tensor is None:
            raise CheckpointError(f"{path}: expected a tensor {_their_name(name)} of floats, which is missing")
        if tensor.shape != shape:
            raise CheckpointError(
                f"{path}: {_their_name(name)}: expected shape {list(shape)}, got {list(tensor.shape)}"
            )
        weights[name] = _our_weight(config, name, tensor, shelf)
        if progress is not None:
            progress(number + 1, len(expected))
    names = _read_json(path / "tokenizer_config.json", {})
    return Checkpoint(
        config,
        weights,
        _read_tokenizer(path, config),
        _read_template(path, names),
        _token_text(names.get("bos_token")),
        _token_text(names.get("eos_token")),
        _stop_tokens(path, described),
    )


def _read_json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object; `missing`, if given, where there is no such file."""
    if missing is not None and not path.exists():
        return missing
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _read_config(path: Path, described: Mapping[str, Any]) -> Config:
    fixed = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    for key, value in fixed.items():
        if described.get(key, value) != value:
            raise CheckpointError(f"{path}: expected {key} {value!r}, got {described[key]!r}")
    heads = described.get("num_attention_heads")
    # newer folders keep what belongs to rotary embedding in one object
    rope: object = described.get("rope_parameters") or described.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{path}: expected rope_scaling to be an object, got {rope!r}")
    scaling = cast("dict[str, Any]", rope)
    theta = scaling.get("rope_theta", described.get("rope_theta", 10000.0))
    sizes = [
        described.get(key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    ]
    try:
        config = Config(
            *cast("list[int]", sizes),
            num_kv_heads=described.get("num_key_value_heads", heads),
            vocab_size=cast("int", described.get("vocab_size")),
            max_positions=cast("int", described.get("max_position_embeddings")),
            shared_classifier=bool(described.get("tie_word_embeddings", False)),
            rope_theta=float(theta),
            norm_eps=float(described.get("rms_norm_eps", 1e-6)),
        )
        if (problem := config.problem()) is not None:
            raise ValueError(problem)
        if described.get("head_dim", config.head_dim) not in (None, config.head_dim):
            raise ValueError(f"expected head_dim {config.head_dim}, got {described['head_dim']!r}")
        return replace(config, rope_divisors=rope_divisors(scaling, config.rope_theta, config.head_dim))
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return [path / "model.safetensors"]
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise CheckpointError(f"{index}: expected an object weight_map, got {type(names).__name__}")
    files = sorted({str(name) for name in cast("dict[str, Any]", names).values()})
    if strange := [name for name in files if Path(name).name != name]:
        raise CheckpointError(f"{index}: expected names of files in the same folder, got {strange[0]!r}")
    return [path / name for name in files]


def _their_name(name: str) -> str:
    """`layers.3.wq` is `model.layers.3.self_attn.q_proj.weight`."""
    known = {"tok_embeddings": "model.embed_tokens.weight", "norm": "model.norm.weight", "output": "lm_head.weight"}
    if name in known:
        return known[name]
    _, layer, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[kind]}.weight"


def _our_weight(config: Config, name: str, tensor: NDArray[Any], shelf: Shelf) -> NDArray[Any]:
    if tensor.ndim == 1 or tensor.dtype == np.float64:
        return tensor.astype(np.float32)
    heads = {"wq": config.num_heads, "wk": config.num_kv_heads}.get(name.rpartition(".")[2])
    if heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, config.head_dim // 2, config.dim)
    return shelf.put(halves.swapaxes(1, 2)).reshape(tensor.shape)


def _read_tokenizer(path: Path, config: Config) -> Tokenizer | None:
    if (path / "tokenizer.json").exists():
        return JsonTokenizer(path / "tokenizer.json", config.vocab_size)
    if (path / "tokenizer.model").exists():
        return load_sentencepiece(path / "tokenizer.model").padded(config.vocab_size)
    return None


def _read_template(path: Path, names: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    try:
        template: Any = file.read_text(encoding="utf-8") if file.exists() else names.get("chat_template")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from None
    if isinstance(template, list):  # several, by name
        entries = [cast("dict[str, Any]", entry) for entry in cast("list[Any]", template) if isinstance(entry, dict)]
        template = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _token_text(token: Any) -> str:
    """A token is its text, or an object that has it."""
    text = cast("dict[str, Any]", token).get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _stop_tokens(path: Path, described: Mapping[str, Any]) -> frozenset[int]:
    generation = _read_json(path / "generation_config.json", {})
    tokens = generation.get("eos_token_id", described.get("eos_token_id"))
    listed = cast("list[Any]", tokens) if isinstance(tokens, list) else [tokens]
    return frozenset(token for token in listed if isinstance(token, int)) or frozenset((BOS, EOS))
