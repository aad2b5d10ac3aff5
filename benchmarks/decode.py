#!/usr/bin/env python3
"""Decode speed: one token at a time, greedy, from position 0, with random weights.

    decode.py --shape 15M --target cuda [--steps 128]

Prints a line with tokens/s of the whole loop (step, logits to the host, argmax, next step), and on CUDA the time of a
step on the device alone.
"""

import argparse
import json
import time

import numpy as np
from shapes import SHAPES, random_weights

import hamkaas as hk
from hamkaas.models.llama2 import build_step, model_step


def main() -> None:
    """Measures one shape and prints the result as JSON."""
    parser = argparse.ArgumentParser(description="Measures decode speed with random weights.")
    parser.add_argument("--shape", choices=list(SHAPES), default="15M")
    parser.add_argument("--target", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    config = SHAPES[options.shape]
    weights = random_weights(config)
    started = time.perf_counter()
    model = hk.compile(build_step(config, weights), target=options.target)
    compile_seconds = time.perf_counter() - started
    with model:
        step = model_step(model)
        seconds = min(_loop(model, step, options.steps) for _ in range(options.repeats + 1))
        sizes = [4 * int(np.prod(shape)) for name, shape in config.weight_shapes()]
        read = sum(sizes) - (0 if config.shared_classifier else sizes[0])
        result = {
            "shape": options.shape,
            "target": options.target,
            "tokens_per_second": round(1 / seconds, 1),
            "us_per_token": round(seconds * 1e6, 1),
            "weights_GB_per_second": round(read / seconds / 1e9, 1),
            "compile_and_load_seconds": round(compile_seconds, 2),
        }
        if options.target == "cuda":
            result["device_us_per_token"] = round(model.runtime.replay(0, 50) * 1e6, 1)  # type: ignore[attr-defined]
    print(json.dumps(result), flush=True)


def _loop(model: hk.Model, step, steps: int) -> float:
    """Seconds per token of a greedy loop from an empty context."""
    model.reset()
    token = 1
    started = time.perf_counter()
    for position in range(steps):
        token = int(step(token, position).argmax())
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    main()
