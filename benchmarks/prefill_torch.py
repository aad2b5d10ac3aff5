#!/usr/bin/env python3
"""The peer of prefill.py: a prompt in one pass in PyTorch, layers compiled by torch.compile, captured in a CUDA graph.

prefill_torch.py --shape 7B --tokens 512 128 [--weights bf16 | f16] [--eager]
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from shapes import SHAPES

from hamkaas.models.llama2 import Config

functional = torch.nn.functional


class Llama:
    """A llama over a prompt from position 0; keys and values go into a cache."""

    def __init__(self, config: Config, dtype: torch.dtype, tokens: int):
        self.config = config
        draw = torch.Generator("cuda").manual_seed(0)

        def weight(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device="cuda", dtype=dtype, generator=draw) * 0.02

        c = config
        self.layers = [
            (
                weight(c.dim) + 1,
                weight(c.dim + 2 * c.kv_dim, c.dim),
                weight(c.dim, c.dim),
                weight(c.dim) + 1,
                weight(2 * c.hidden_dim, c.dim),
                weight(c.dim, c.hidden_dim),
                torch.zeros(2, c.num_kv_heads, c.max_positions, c.head_dim, device="cuda", dtype=dtype),
            )
            for _ in range(c.num_layers)
        ]
        self.embeddings, self.norm, self.output = weight(c.vocab_size, c.dim), weight(c.dim) + 1, None
        self.output = self.embeddings if c.shared_classifier else weight(c.vocab_size, c.dim)
        angles = torch.outer(
            torch.arange(tokens, device="cuda").float(),
            c.rope_theta ** (-torch.arange(0, c.head_dim, 2, device="cuda") / c.head_dim),
        )
        self.cos, self.sin = angles.cos()[:, None], angles.sin()[:, None]
        self.tokens = torch.ones(tokens, device="cuda", dtype=torch.long)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary embedding of [tokens, heads, head_dim]."""
        pairs = x.float().view(*x.shape[:-1], -1, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        return torch.stack([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1).flatten(-2).to(x.dtype)

    def layer(self, x: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """One layer over [tokens, dim]."""
        c, count = self.config, len(x)
        norm, qkv, wo, ffn_norm, gate_up, w2, cache = weights
        h = functional.rms_norm(x, (c.dim,), norm, 1e-5)
        q, k, v = functional.linear(h, qkv).split([c.dim, c.kv_dim, c.kv_dim], -1)
        q = self.rotate(q.view(count, c.num_heads, -1))
        k = self.rotate(k.view(count, c.num_kv_heads, -1))
        v = v.view(count, c.num_kv_heads, -1)
        q, k, v = (one.transpose(0, 1)[None] for one in (q, k, v))
        cache[0, :, :count], cache[1, :, :count] = k[0], v[0]
        mixed = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=c.num_heads != c.num_kv_heads
        )
        x = x + functional.linear(mixed[0].transpose(0, 1).reshape(count, c.dim), wo)
        h = functional.rms_norm(x, (c.dim,), ffn_norm, 1e-5)
        gate, up = functional.linear(h, gate_up).chunk(2, -1)
        return x + functional.linear(functional.silu(gate) * up, w2)

    def prefill(self, layer: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Logits after the last token."""
        x = functional.embedding(self.tokens, self.embeddings)
        for weights in self.layers:
            x = layer(x, weights)
        x = functional.rms_norm(x[-1], (self.config.dim,), self.norm, 1e-5)
        assert self.output is not None
        return self.output @ x


def main() -> None:
    """Measures all combinations."""
    parser = argparse.ArgumentParser(description="Measures prefill speed of PyTorch with random weights.")
    parser.add_argument("--shape", choices=list(SHAPES), nargs="+", default=["15M"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 128])
    parser.add_argument("--weights", choices=["bf16", "f16"], default="bf16")
    parser.add_argument("--eager", action="store_true", help="capture eager PyTorch instead of compiled code")
    options = parser.parse_args()
    for shape in options.shape:
        for tokens in options.tokens:
            model = Llama(SHAPES[shape], torch.bfloat16 if options.weights == "bf16" else torch.float16, tokens)
            started = time.perf_counter()
            seconds = measure(model, options.eager)
            result = {
                "shape": shape,
                "tokens": tokens,
                "weights": options.weights,
                "peer": "torch eager, graph" if options.eager else "torch.compile, graph",
                "tokens_per_second": round(tokens / seconds),
                "ms": round(seconds * 1e3, 3),
                "compile_seconds": round(time.perf_counter() - started, 1),
            }
            print(json.dumps(result), flush=True)
            del model
            torch.compiler.reset()
            torch.cuda.empty_cache()


@torch.inference_mode()
def measure(model: Llama, eager: bool) -> float:
    """Seconds of a prompt, the best of many."""
    layer = model.layer if eager else torch.compile(model.layer, fullgraph=True)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            model.prefill(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model.prefill(layer)
    times: list[float] = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
