"""A llama in PyTorch, the peer of decode.py and prefill.py. Imported only where torch is asked for.

It is written for speed: the matrices of queries, keys and values are one, those of gate and up too, and the query heads
of a key head attend together.
"""

import gc
import time
from collections.abc import Callable
from math import gcd
from typing import Any, TypeAlias

import torch

from hamkaas.models.llama2 import Config

functional = torch.nn.functional

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
WHOLE_LAYERS = 12
"""Up to so many layers a step is compiled as a whole; beyond, one layer is, which takes seconds instead of minutes."""

Matrix: TypeAlias = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""[out, in]; or int8 numbers and their scales [out, in / group] (Q8_0)."""

Layer: TypeAlias = tuple[torch.Tensor, Matrix, Matrix, torch.Tensor, Matrix, Matrix]
"""Norm; queries, keys and values; what comes behind attention; norm; gate and up; down."""

Turn: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine of rotary embedding: [tokens, head_dim / 2] each."""


def dense(matrix: Matrix) -> torch.Tensor:
    """The numbers times their scales."""
    if isinstance(matrix, torch.Tensor):
        return matrix
    numbers, scales = matrix
    return (numbers.unflatten(-1, (scales.shape[-1], -1)) * scales[..., None]).flatten(-2)


def product(matrix: Matrix, x: torch.Tensor) -> torch.Tensor:
    """The matrix times x [in], or times each row of x [tokens, in]."""
    return dense(matrix) @ x if x.dim() == 1 else functional.linear(x, dense(matrix))


def rotate(x: torch.Tensor, turn: Turn) -> torch.Tensor:
    """Rotary embedding of neighbouring pairs: x [..., heads, head_dim]."""
    cos, sin = turn
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


class Llama:
    """Random weights of a llama. `precision` is that of the matrices; activations are the same, f16 for i8."""

    def __init__(self, config: Config, precision: str, device: str):
        self.config, self.device = config, device
        self.dtype = DTYPES.get(precision, torch.float16)
        draw = torch.Generator(device).manual_seed(0)

        def matrix(rows: int, columns: int) -> Matrix:
            if precision == "i8":
                numbers = torch.randint(-60, 60, (rows, columns), device=device, dtype=torch.int8, generator=draw)
                groups = columns // gcd(columns, 32)
                return numbers, torch.full((rows, groups), 1e-3, device=device, dtype=self.dtype)
            return torch.randn((rows, columns), device=device, dtype=self.dtype, generator=draw).mul_(0.02)

        c = config
        ones = torch.ones(c.dim, device=device, dtype=self.dtype)
        self.layers: list[Layer] = [
            (
                ones.clone(),
                matrix(c.dim + 2 * c.kv_dim, c.dim),
                matrix(c.dim, c.dim),
                ones.clone(),
                matrix(2 * c.hidden_dim, c.dim),
                matrix(c.dim, c.hidden_dim),
            )
            for _ in range(c.num_layers)
        ]
        self.embeddings, self.norm = matrix(c.vocab_size, c.dim), ones
        self.output = self.embeddings if c.shared_classifier else matrix(c.vocab_size, c.dim)
        exponents = torch.arange(0, c.head_dim, 2, device=device) / c.head_dim
        angles = torch.outer(torch.arange(c.max_positions, device=device).float(), c.rope_theta**-exponents)
        self.cos, self.sin = angles.cos(), angles.sin()

    def caches(self, dtype: torch.dtype, rows: int) -> list[torch.Tensor]:
        """Keys and values of each layer: [2, kv_heads, rows, head_dim]."""
        shape = (2, self.config.num_kv_heads, rows, self.config.head_dim)
        return [torch.zeros(shape, device=self.device, dtype=dtype) for _ in self.layers]

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """[tokens, dim]"""
        table = self.embeddings
        if isinstance(table, torch.Tensor):
            return functional.embedding(tokens, table)
        return dense((table[0][tokens], table[1][tokens]))

    def layer(self, x: torch.Tensor, weights: Layer, turn: Turn, attend: Callable[..., torch.Tensor]) -> torch.Tensor:
        """One layer over x [dim] or [tokens, dim]; `attend` takes and gives [..., heads, head_dim] of queries."""
        c = self.config
        norm, qkv, wo, ffn_norm, gate_up, w2 = weights
        h = functional.rms_norm(x, (c.dim,), norm, c.norm_eps)
        q, k, v = product(qkv, h).split([c.dim, c.kv_dim, c.kv_dim], -1)
        q, k, v = (part.unflatten(-1, (-1, c.head_dim)) for part in (q, k, v))
        x = x + product(wo, attend(rotate(q, turn), rotate(k, turn), v).flatten(-2))
        h = functional.rms_norm(x, (c.dim,), ffn_norm, c.norm_eps)
        gate, up = product(gate_up, h).chunk(2, -1)
        return x + product(w2, functional.silu(gate) * up)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[vocab_size] of x [dim]"""
        return product(self.output, functional.rms_norm(x, (self.config.dim,), self.norm, self.config.norm_eps))


class Decoder:
    """Greedy generation; token and position stay on the device. The cache has room for what is generated, no more."""

    def __init__(self, llama: Llama, kind: str, cache: str, start: int, tokens: int):
        """`kind` is "eager"; "graph", eager captured in a CUDA graph; or "compile", torch.compile in a CUDA graph."""
        self.llama, self.start, self.tokens = llama, start, tokens
        rows = -(-(start + tokens + 4) // 16) * 16  # four steps warm up; attention is fastest with an even mask
        self.caches = llama.caches(DTYPES[cache], rows)
        self.token = torch.ones(1, device=llama.device, dtype=torch.long)
        self.position = torch.full((1,), start, device=llama.device, dtype=torch.long)
        self.columns = torch.arange(rows, device=llama.device)[None]
        begun = time.perf_counter()
        step = self.step
        if kind == "compile" and len(llama.layers) > WHOLE_LAYERS:
            self.layer = compiled(self.layer)
        elif kind == "compile":
            step = compiled(step)
        with torch.inference_mode():
            if kind == "eager" or llama.device == "cpu":
                step()
                self.next = step
            else:
                self.next = captured(step)
        self.compile_seconds = time.perf_counter() - begun

    def layer(
        self, x: torch.Tensor, weights: Layer, cache: torch.Tensor, turn: Turn, seen: torch.Tensor
    ) -> torch.Tensor:
        """One layer over [dim]."""

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            cache[0].index_copy_(1, self.position, k[:, None].to(cache.dtype))
            cache[1].index_copy_(1, self.position, v[:, None].to(cache.dtype))
            groups = q.to(cache.dtype).unflatten(0, (len(k), -1))[None]  # [1, kv_heads, heads of each, head_dim]
            mixed = functional.scaled_dot_product_attention(groups, cache[None, 0], cache[None, 1], seen)
            return mixed[0].flatten(0, 1).to(q.dtype)

        return self.llama.layer(x, weights, turn, attend)

    def step(self) -> None:
        """The next token."""
        llama = self.llama
        x = llama.embed(self.token)[0]
        turn = llama.cos[self.position], llama.sin[self.position]
        seen = self.columns <= self.position
        for weights, cache in zip(llama.layers, self.caches, strict=True):
            x = self.layer(x, weights, cache, turn, seen)
        self.token.copy_(llama.logits(x).argmax().view(1))
        self.position.add_(1)

    @torch.inference_mode()
    def generate(self) -> float:
        """Seconds per token of one generation."""
        self.token.fill_(1)
        self.position.fill_(self.start)
        synchronize(self.llama.device)
        started = time.perf_counter()
        for _ in range(self.tokens):
            self.next()
        synchronize(self.llama.device)
        return (time.perf_counter() - started) / self.tokens


class Prompt:
    """A prompt in one pass from position 0; keys and values go into a cache."""

    def __init__(self, llama: Llama, kind: str, tokens: int):
        """`kind` is "graph" or "compile", as for `Decoder`; it is a layer that is compiled."""
        self.llama = llama
        self.caches = llama.caches(llama.dtype, tokens)
        self.prompt = torch.ones(tokens, dtype=torch.long, pin_memory=llama.device == "cuda")
        self.tokens = self.prompt.to(llama.device)
        self.logits = torch.empty(0)
        begun = time.perf_counter()
        if kind == "compile":
            self.layer = compiled(self.layer)
        with torch.inference_mode():
            self.run = captured(self.prefill)
        self.compile_seconds = time.perf_counter() - begun

    def layer(self, x: torch.Tensor, weights: Layer, cache: torch.Tensor) -> torch.Tensor:
        """One layer over [tokens, dim]."""
        count = len(x)

        def attend(*qkv: torch.Tensor) -> torch.Tensor:
            q, k, v = (one.transpose(0, 1)[None] for one in qkv)  # [1, heads, tokens, head_dim]
            cache[0], cache[1] = k[0], v[0]
            mixed = functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
            )
            return mixed[0].transpose(0, 1)

        turn = self.llama.cos[:count, None], self.llama.sin[:count, None]
        return self.llama.layer(x, weights, turn, attend)

    def prefill(self) -> None:
        """Logits after the last token: [vocab_size]. Captured, they are always in the same memory."""
        x = self.llama.embed(self.tokens)
        for weights, cache in zip(self.llama.layers, self.caches, strict=True):
            x = self.layer(x, weights, cache)
        self.logits = self.llama.logits(x[-1])

    def seconds(self) -> float:
        """Of the whole prompt: tokens up, logits down."""
        synchronize(self.llama.device)
        started = time.perf_counter()
        self.tokens.copy_(self.prompt, non_blocking=True)
        self.run()
        self.logits.cpu()
        return time.perf_counter() - started

    def seconds_on_device(self, runs: int = 5) -> float:
        """Of one of several in a row, without copies."""
        synchronize(self.llama.device)
        started = time.perf_counter()
        for _ in range(runs):
            self.run()
        synchronize(self.llama.device)
        return (time.perf_counter() - started) / runs


def compiled(work: Callable[..., Any]) -> Callable[..., Any]:
    """By torch.compile for the sizes at hand; what was compiled before is forgotten, for there is a limit."""
    torch.compiler.reset()
    return torch.compile(work, fullgraph=True, dynamic=False)


def captured(work: Callable[[], object]) -> Callable[[], None]:
    """Launches, by a CUDA graph, of what the work launches; it runs three times before."""
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def synchronize(device: str) -> None:
    """Waits for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def free_memory() -> None:
    """Gives the memory of models that are no longer used back to the device."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
