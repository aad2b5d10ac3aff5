"""Models in GGUF files, through the `gguf` package: architecture llama, any quantisation that the package can undo.

Floats of 32 and 16 bits stay in the file, which is memory-mapped; Q8_0 stays int8; other weights become float32, one
after the other. The file's rows of queries and keys are in the order of llama2.c (converters to GGUF permute them), so
nothing is to be moved.
"""

import mmap
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hamkaas.errors import CheckpointError
from hamkaas.models.llama2.bpe import BpeTokenizer
from hamkaas.models.llama2.checkpoint import Checkpoint, Quantized, Shelf, Weight
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.rope import rope_divisors
from hamkaas.models.llama2.tokenizer import ScoredTokenizer, Tokenizer

LAYER_NAMES = {
    "attn_norm": "attention_norm",
    "attn_q": "wq",
    "attn_k": "wk",
    "attn_v": "wv",
    "attn_output": "wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "w1",
    "ffn_down": "w2",
    "ffn_up": "w3",
}
"""What GGUF calls the tensors of a layer, and what we do."""

CONTROL = 3
"""Token type of tokens that stand for no text."""


def load_gguf(path: Path, progress: Callable[[int, int], None] | None = None) -> Checkpoint:
    """Reads a model. Raises `CheckpointError` for a damaged file, another architecture, and missing tensors."""
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(f"{path}: GGUF files need more packages ({error}): pip install 'hamkaas[gguf]'") from None
    try:
        return _read(path, gguf, progress)
    except CheckpointError:
        raise
    except Exception as error:  # the package checks little: a damaged file ends in whatever goes wrong first
        raise CheckpointError(f"{path}: no GGUF file that can be read: {error}") from None


def _open(path: Path, gguf: Any) -> Any:
    """The package's reader, but for two things that damaged files turn against it.

    It goes on past the end of files that say that they hold more than they do, and makes an object of half a kilobyte
    for each element of an array, also where the length is wrong and the rest of the file is taken for elements.
    """
    package_reader: Any = gguf.GGUFReader
    kinds: Any = gguf.GGUFValueType

    class Reader(package_reader):
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            found: Any = package_reader._get(self, offset, dtype, count, override_order)
            if len(found) < count:
                raise ValueError(f"truncated: expected {count} x {np.dtype(dtype)} at byte {offset}, got {len(found)}")
            return found

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == kinds.ARRAY:
                kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
                if (dtype := self.gguf_scalar_to_np.get(kinds(kind[0]))) is not None:
                    values = self._get(orig_offs + 12, dtype, int(length[0]))
                    return 12 + values.nbytes, [kind, length, values], [2], [kinds.ARRAY, kinds(kind[0])]
            return package_reader._get_field_parts(self, orig_offs, raw_type)

    return Reader(path)


def _read(path: Path, gguf: Any, progress: Callable[[int, int], None] | None) -> Checkpoint:
    reader = _open(path, gguf)
    metadata = _Metadata(path, reader)
    config = _read_config(metadata, {tensor.name: tensor for tensor in reader.tensors})
    weights: dict[str, Weight] = {}
    shelf = Shelf()
    expected = dict(config.weight_shapes())
    for number, tensor in enumerate(reader.tensors):
        if (name := _our_name(tensor.name)) in expected:
            shape = expected[name]
            if tuple(map(int, reversed(tensor.shape))) != shape:
                found = list(map(int, reversed(tensor.shape)))
                raise CheckpointError(f"{path}: {tensor.name}: expected shape {list(shape)}, got {found}")
            weights[name] = _read_weight(gguf, tensor, shape, shelf)
        if progress is not None:
            progress(number + 1, len(reader.tensors))
    if missing := expected.keys() - weights.keys():
        raise CheckpointError(
            f"{path}: expected {len(expected)} tensors, {len(missing)} are missing: {min(missing)}, ..."
        )
    _let_go(reader.data)
    template = metadata.get("tokenizer.chat_template")
    return Checkpoint(
        config,
        weights,
        _read_tokenizer(metadata),
        template if isinstance(template, str) else None,
        metadata.token_text("bos"),
        metadata.token_text("eos"),
        metadata.stop_tokens(),
    )


def _let_go(file: Any) -> None:
    """Frees the pages of the file: most have been read for the last time. The others are read again when needed."""
    if isinstance(file.base, mmap.mmap) and hasattr(file.base, "madvise"):
        file.base.madvise(mmap.MADV_DONTNEED)


class _Metadata:
    """The key-value part of a file."""

    def __init__(self, path: Path, reader: Any):
        self.path = path
        self._fields = reader.fields

    def get(self, key: str) -> Any:
        """The value of a key, or None."""
        field = self._fields.get(key)
        return None if field is None else field.contents()

    @cached_property
    def tokens(self) -> list[str]:
        """The text of each token."""
        return self.require("tokenizer.ggml.tokens")

    def of_tokens(self, key: str, kind: type) -> list[Any] | None:
        """The value of a key that has one of some type for each token; None without such a key."""
        values = self.get(key)
        if values is not None and (len(values) != len(self.tokens) or not all(type(value) is kind for value in values)):
            raise CheckpointError(
                f"{self.path}: {key}: expected one {kind.__name__} for each of {len(self.tokens)} tokens"
            )
        return values

    def token(self, name: str) -> int | None:
        """The token that has a name, such as bos; None without one."""
        key = f"tokenizer.ggml.{name}_token_id"
        token = self.get(key)
        if token is not None and not (type(token) is int and 0 <= token < len(self.tokens)):
            raise CheckpointError(f"{self.path}: {key}: expected one of {len(self.tokens)} tokens, got {token!r}")
        return token

    def token_text(self, name: str) -> str:
        """The text of a token that has a name; empty without one."""
        token = self.token(name)
        return "" if token is None else self.tokens[token]

    def stop_tokens(self) -> frozenset[int]:
        """The tokens that end a text or a turn."""
        tokens = (self.token(name) for name in ("eos", "eot"))
        return frozenset(token for token in tokens if token is not None)

    def require(self, key: str) -> Any:
        """The value of a key that must be there."""
        value = self.get(key)
        if value is None:
            raise CheckpointError(f"{self.path}: expected the key {key}, which is missing")
        return value


def _read_config(metadata: _Metadata, tensors: Mapping[str, Any]) -> Config:
    architecture = metadata.require("general.architecture")
    if architecture != "llama":
        raise CheckpointError(f"{metadata.path}: expected the architecture llama, got {architecture}")
    heads = metadata.require("llama.attention.head_count")
    config = Config(
        dim=metadata.require("llama.embedding_length"),
        hidden_dim=metadata.require("llama.feed_forward_length"),
        num_layers=metadata.require("llama.block_count"),
        num_heads=heads,
        num_kv_heads=metadata.get("llama.attention.head_count_kv") or heads,
        vocab_size=len(metadata.tokens),
        max_positions=metadata.require("llama.context_length"),
        shared_classifier="output.weight" not in tensors,
        rope_theta=metadata.get("llama.rope.freq_base") or 10000.0,
        norm_eps=metadata.require("llama.attention.layer_norm_rms_epsilon"),
    )
    if (problem := config.problem()) is not None:
        raise CheckpointError(f"{metadata.path}: {problem}")
    rotated = metadata.get("llama.rope.dimension_count")
    if rotated not in (None, config.head_dim):
        raise CheckpointError(f"{metadata.path}: expected whole heads of {config.head_dim} that turn, got {rotated}")
    config = replace(config, rope_divisors=_rope_divisors(metadata, tensors, config))
    if (problem := config.problem()) is not None:
        raise CheckpointError(f"{metadata.path}: {problem}")
    return config


def _rope_divisors(metadata: _Metadata, tensors: Mapping[str, Any], config: Config) -> tuple[float, ...]:
    """Of the file's own tensor, as converters write it for Llama 3, or of its metadata."""
    if (factors := tensors.get("rope_freqs.weight")) is not None:
        return tuple(np.asarray(factors.data, np.float32).reshape(-1).tolist())
    kind = metadata.get("llama.rope.scaling.type") or "none"
    scaling = {"type": "default" if kind == "none" else kind, "factor": metadata.get("llama.rope.scaling.factor")}
    try:
        return rope_divisors(scaling, config.rope_theta, config.head_dim)
    except ValueError as error:
        raise CheckpointError(f"{metadata.path}: {error}") from None


def _our_name(name: str) -> str:
    """`blk.3.attn_q.weight` is `layers.3.wq`."""
    known = {"token_embd.weight": "tok_embeddings", "output_norm.weight": "norm", "output.weight": "output"}
    if name in known:
        return known[name]
    block, *rest = name.split(".")
    if block == "blk" and len(rest) == 3 and rest[1] in LAYER_NAMES and rest[2] == "weight":
        return f"layers.{rest[0]}.{LAYER_NAMES[rest[1]]}"
    return name


def _read_weight(gguf: Any, tensor: Any, shape: tuple[int, ...], shelf: Shelf) -> Weight:
    kind = tensor.tensor_type
    types = gguf.GGMLQuantizationType
    if kind in (types.F32, types.F16) and (kind == types.F32 or len(shape) > 1):
        return tensor.data.reshape(shape)
    if kind == types.BF16 and len(shape) > 1:
        return tensor.data.view(ml_dtypes.bfloat16).reshape(shape)
    if kind == types.Q8_0 and len(shape) > 1:
        return _read_q8_0(tensor.data, shape, shelf)
    try:
        return shelf.put(gguf.dequantize(tensor.data, kind)).reshape(shape)
    except NotImplementedError:
        raise CheckpointError(f"{tensor.name}: the quantisation {kind.name} is not known") from None


def _read_q8_0(data: NDArray[np.uint8], shape: tuple[int, ...], shelf: Shelf) -> Quantized:
    """Blocks of a float16 scale and 32 int8 numbers, as all numbers and all scales."""
    blocks = data.reshape(-1, 34)
    values = shelf.put(blocks[:, 2:]).view(np.int8).reshape(shape)
    scales = shelf.put(blocks[:, :2]).view(np.float16)
    return Quantized(values, scales.reshape(*shape[:-1], shape[-1] // 32))


def _read_tokenizer(metadata: _Metadata) -> Tokenizer:
    kind, tokens = metadata.require("tokenizer.ggml.model"), metadata.tokens
    types = metadata.of_tokens("tokenizer.ggml.token_type", int) or [1] * len(tokens)
    control = frozenset(token for token, type_ in enumerate(types) if type_ == CONTROL)
    if kind == "gpt2":
        bos = metadata.token("bos") if metadata.get("tokenizer.ggml.add_bos_token") is not False else None
        merges: list[str] = metadata.require("tokenizer.ggml.merges")
        splits = metadata.get("tokenizer.ggml.pre") or "default"
        return BpeTokenizer(tokens, merges, control, splits, bos)
    if kind == "llama":
        scores = metadata.of_tokens("tokenizer.ggml.scores", float)
        if scores is None:
            raise CheckpointError(f"{metadata.path}: expected the key tokenizer.ggml.scores, which is missing")
        # sentencepiece writes a space as U+2581
        return ScoredTokenizer(tuple(token.replace("\u2581", " ").encode() for token in tokens), tuple(scores), control)
    raise CheckpointError(f"{metadata.path}: expected a tokenizer gpt2 or llama, got {kind}")
