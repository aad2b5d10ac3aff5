"""Small GGUF files of llama models for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from hamkaas.models.llama2 import Config

NAMES = {
    "attention_norm": "attn_norm",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "w1": "ffn_gate",
    "w2": "ffn_down",
    "w3": "ffn_up",
}
"""What GGUF calls the weights of a layer."""

Types = gguf.GGMLQuantizationType


def write_gguf(
    path: Path, config: Config, weights: Mapping[str, NDArray[Any]], kind: Any = None, tokenizer: str = "llama"
) -> None:
    """Writes a model of 262 tokens. Matrices of a `kind` of quantisation come as its bytes; norms are float32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_context_length(config.max_positions)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab"])
    writer.add_token_types([2, 3, 3, *[6] * 256, 1, 1, 1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if tokenizer == "llama":
        writer.add_token_scores([float(-token) for token in range(config.vocab_size)])
    else:
        writer.add_token_merges(["a b"])
    for name, weight in weights.items():
        theirs = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}.get(name)
        if theirs is None:
            _, layer, of_layer = name.split(".")
            theirs = f"blk.{layer}.{NAMES[of_layer]}"
        writer.add_tensor(f"{theirs}.weight", weight, raw_dtype=kind if weight.dtype == np.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
