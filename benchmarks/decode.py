#!/usr/bin/env python3
"""Decode speed: greedy generation, one token at a time, with random weights.

    decode.py --shape 15M 110M --weights f32 f16 --target cuda [--tokens 128] [--position 0]

The loop is the graph of `Transformer.decode`: argmax and position included, synchronised once at the end. Each line is
JSON: tokens/s, GB/s of weights and cache, and how many percent that is of what a copy of 4 GB in the same process reads
and writes (CUDA only). The first run warms up; the best of the others counts.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
from shapes import SHAPES, random_weights

import hamkaas as hk
from hamkaas.models.llama2 import Checkpoint, Config, Transformer


def main() -> None:
    """Measures all shapes and precisions."""
    parser = argparse.ArgumentParser(description="Measures decode speed with random weights.")
    parser.add_argument("--shape", choices=list(SHAPES), nargs="+", default=["15M"])
    parser.add_argument("--weights", choices=["f32", "f16", "i8"], nargs="+", default=["f32"])
    parser.add_argument("--target", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--position", type=int, default=0, help="where generation starts")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for shape in options.shape:
        for precision in options.weights:
            print(json.dumps(measure(SHAPES[shape], shape, precision, options)), flush=True)


def measure(config: Config, shape: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """One shape at one precision."""
    checkpoint = Checkpoint(config, random_weights(config, precision, shared=options.target == "cuda"))
    transformer = Transformer(config, checkpoint.weights)
    started = time.perf_counter()
    model = hk.compile(transformer.decode(), target=options.target)
    compile_seconds = time.perf_counter() - started
    with model:
        seconds = min(generate(model, options) for _ in range(options.repeats + 1))
        peak = model["next"].bandwidth()
    middle = options.position + options.tokens / 2
    cache = middle * 2 * config.num_layers * config.kv_dim * 4
    rate = (checkpoint.step_bytes + cache) / seconds
    result = {
        "shape": shape,
        "weights": precision,
        "target": options.target,
        "position": options.position,
        "tokens_per_second": round(1 / seconds, 1),
        "us_per_token": round(seconds * 1e6, 1),
        "GB_per_second": round(rate / 1e9, 1),
        "compile_and_load_seconds": round(compile_seconds, 2),
    }
    if peak is not None:
        result["percent_of_bandwidth"] = round(100 * rate / peak, 1)
    return result


def generate(model: hk.Model, options: argparse.Namespace) -> float:
    """Seconds per token of one generation."""
    model.reset()
    model["start"](token=np.array([1]), position=np.array([options.position]))
    started = time.perf_counter()
    model["next"].evaluate({}, times=options.tokens)
    return (time.perf_counter() - started) / options.tokens


if __name__ == "__main__":
    main()
