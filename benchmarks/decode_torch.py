#!/usr/bin/env python3
"""The peer of decode.py: the same greedy loop in PyTorch, compiled by torch.compile and captured in a CUDA graph.

decode_torch.py --shape 15M 110M --weights f32 f16 [--tokens 128] [--eager]
"""

import argparse
import json
import time

import torch
from shapes import SHAPES

from hamkaas.models.llama2 import Config


class Llama:
    """One step of a llama over a static cache; token and position stay on the device."""

    def __init__(self, config: Config, dtype: torch.dtype):
        self.config = config
        draw = torch.Generator("cuda").manual_seed(0)

        def weight(shape: tuple[int, ...]) -> torch.Tensor:
            if len(shape) == 1:
                return torch.ones(shape, device="cuda", dtype=dtype)
            return torch.randn(shape, device="cuda", dtype=dtype, generator=draw) * 0.02

        self.weights = {name: weight(shape) for name, shape in config.weight_shapes()}
        for layer in (f"layers.{number}" for number in range(config.num_layers)):
            qkv, gate = [f"{layer}.w{x}" for x in "qkv"], [f"{layer}.w1", f"{layer}.w3"]
            self.weights[f"{layer}.qkv"] = torch.cat([self.weights.pop(name) for name in qkv])
            self.weights[f"{layer}.gate"] = torch.cat([self.weights.pop(name) for name in gate])
        shape = (config.num_layers, 2, config.num_kv_heads, config.max_positions, config.head_dim)
        self.cache = torch.zeros(shape, device="cuda", dtype=dtype)
        angles = torch.outer(
            torch.arange(config.max_positions, device="cuda").float(),
            config.rope_theta ** (-torch.arange(0, config.head_dim, 2, device="cuda") / config.head_dim),
        )
        self.cos, self.sin = angles.cos(), angles.sin()
        self.token = torch.ones(1, device="cuda", dtype=torch.long)
        self.position = torch.zeros(1, device="cuda", dtype=torch.long)
        self.columns = torch.arange(config.max_positions, device="cuda")

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary embedding of [heads, head_dim] at the position."""
        cos, sin = self.cos[self.position], self.sin[self.position]
        pairs = x.float().view(x.shape[0], -1, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(1).to(x.dtype)

    def step(self) -> None:
        """The next token."""
        c, w = self.config, self.weights
        x = torch.nn.functional.embedding(self.token, w["tok_embeddings"])[0]
        seen = self.columns <= self.position
        for number in range(c.num_layers):
            layer = f"layers.{number}"
            h = torch.nn.functional.rms_norm(x, (c.dim,), w[f"{layer}.attention_norm"], 1e-5)
            q, k, v = (w[f"{layer}.qkv"] @ h).split([c.dim, c.kv_dim, c.kv_dim])
            q = self.rotate(q.view(c.num_heads, -1))
            self.cache[number, 0].index_copy_(1, self.position, self.rotate(k.view(c.num_kv_heads, -1))[:, None])
            self.cache[number, 1].index_copy_(1, self.position, v.view(c.num_kv_heads, 1, -1))
            mixed = torch.nn.functional.scaled_dot_product_attention(
                q[None, :, None], self.cache[None, number, 0], self.cache[None, number, 1], seen[None], enable_gqa=True
            )
            x = x + w[f"{layer}.wo"] @ mixed.flatten()
            h = torch.nn.functional.rms_norm(x, (c.dim,), w[f"{layer}.ffn_norm"], 1e-5)
            gate, up = (w[f"{layer}.gate"] @ h).chunk(2)
            x = x + w[f"{layer}.w2"] @ (torch.nn.functional.silu(gate) * up)
        x = torch.nn.functional.rms_norm(x, (c.dim,), w["norm"], 1e-5)
        logits = w["tok_embeddings" if c.shared_classifier else "output"] @ x
        self.token.copy_(logits.argmax().view(1))
        self.position.add_(1)


def main() -> None:
    """Measures all shapes and precisions."""
    parser = argparse.ArgumentParser(description="Measures decode speed of PyTorch with random weights.")
    parser.add_argument("--shape", choices=list(SHAPES), nargs="+", default=["15M"])
    parser.add_argument("--weights", choices=["f32", "f16"], nargs="+", default=["f32"])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--eager", action="store_true", help="capture eager PyTorch instead of compiled code")
    options = parser.parse_args()
    for shape in options.shape:
        for precision in options.weights:
            model = Llama(SHAPES[shape], torch.float32 if precision == "f32" else torch.float16)
            started = time.perf_counter()
            seconds = measure(model, options)
            result = {
                "shape": shape,
                "weights": precision,
                "peer": "torch eager, graph" if options.eager else "torch.compile, graph",
                "tokens_per_second": round(1 / seconds, 1),
                "us_per_token": round(seconds * 1e6, 1),
                "compile_seconds": round(time.perf_counter() - started, 1),
            }
            print(json.dumps(result), flush=True)
            del model
            torch.compiler.reset()
            torch.cuda.empty_cache()


@torch.inference_mode()
def measure(model: Llama, options: argparse.Namespace) -> float:
    """Seconds per token, the best of three generations."""
    step = model.step if options.eager else torch.compile(model.step, fullgraph=True)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times: list[float] = []
    for _ in range(4):
        model.position.zero_()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(options.tokens):
            graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / options.tokens)
    return min(times)


if __name__ == "__main__":
    main()
