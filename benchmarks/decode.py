#!/usr/bin/env python3
"""Decode speed: greedy generation, one token at a time, with random weights.

    decode.py --target cuda --shape 1B 7B --weights f16 i8 --cache f16 --position 0 1900 --torch graph compile
    decode.py --shape 15M --llama2c ./run --torch eager --json decode.json --plot decode.png

The loop is the graph of `Transformer.decode`: argmax and position included, synchronised once at the end; that of torch
is the same. All that is compared runs in turn in this process, once to warm up and then `--repeats` times; llama2.c is
a process of its own each time, and runs where weights and cache are f32 and generation starts at position 0.

Each line is JSON. `tokens_per_second` and `us_per_token` (microseconds) are of the best generation.
`GB_per_second` (1e9 bytes) counts the weights and the keys and values that a token reads, and `percent_of_bandwidth`
compares it with reading alone, measured in the same run: 4 GiB of a GPU's memory, or the weights of the model on a
CPU, where they may fit the caches. Times of compiling are those of `hk.compile` with an empty cache folder (cold) and
with the code in it (warm); for torch, that of compiling, warming up and capturing.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, get_args

import llama2c
import numpy as np
from device import gpu_read_bandwidth
from report import Report
from shapes import CACHES, SHAPES, random_weights
from timing import compile_cold_and_warm

import hamkaas as hk
from hamkaas.api import Schedule, choose_target
from hamkaas.models.llama2 import Checkpoint, Config, Transformer
from hamkaas.passes.hamkaas_convert_weights import Precision

TORCH = {"eager": "torch eager", "graph": "torch eager, CUDA graph", "compile": "torch.compile, CUDA graph"}


@dataclass(frozen=True)
class Contestant:
    """What takes part in a comparison."""

    name: str
    generate: Callable[[], float]
    """One generation: seconds per token."""
    details: dict[str, float] = field(default_factory=dict[str, float])
    """Its own part of a row."""


def main() -> int:
    """Measures all combinations; 1 if one of them failed."""
    options = parse()
    report = Report(options.target, options.json)
    with report.attempt(peer="torch"):
        if options.torch:
            import_module("torch_llama")
    if report.failed:
        options.torch = []  # not installed, as the report says once
    bandwidth = gpu_read_bandwidth() if options.target == "cuda" else None
    hk.compile(hk.InputTensor("x", "float32", [1]).relu(), target=options.target).close()  # loads what compiles
    for shape, precision in product(options.shape, options.weights):
        with report.attempt(shape=shape, weights=precision):
            measure(shape, precision, options, report, bandwidth)
        if options.torch:
            import_module("torch_llama").free_memory()
    if options.plot is not None:
        import_module("roofline").draw(report.rows, options.plot, report.device)
    return int(report.failed)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures decode speed with random weights.")
    parser.add_argument("--shape", choices=list(SHAPES), nargs="+", default=["15M"])
    parser.add_argument("--weights", choices=get_args(Precision), nargs="+", default=["f32"])
    parser.add_argument("--cache", choices=list(CACHES), nargs="+", default=["f32"], help="what keys and values are")
    parser.add_argument("--target", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--schedule", choices=get_args(Schedule), nargs="+", default=["auto"], help="see hk.compile")
    parser.add_argument("--tokens", type=int, default=128, help="how many are generated")
    parser.add_argument("--position", type=int, nargs="+", default=[0], help="where generation starts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--torch", choices=list(TORCH), nargs="+", default=[], help="peers; on a CPU eager and compile")
    parser.add_argument("--llama2c", type=Path, nargs="+", default=[], metavar="PATH", help="builds of run.c, as peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a roofline (PNG; needs matplotlib)")
    options = parser.parse_args()
    try:
        choose_target(options.target)
    except hk.TargetError as error:
        parser.error(str(error))
    if options.target == "cuda" and options.llama2c:
        parser.error("--llama2c is for the CPU, got --target cuda")
    if options.target == "cpu" and options.schedule != ["auto"]:
        parser.error("--schedule is for a GPU, got --target cpu")
    if options.target == "cpu" and "graph" in options.torch:
        parser.error("--torch graph is for a GPU, got --target cpu")
    if options.plot is not None and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib, which is not installed")
    return options


def measure(shape: str, precision: str, options: argparse.Namespace, report: Report, bandwidth: float | None) -> None:
    """One shape at one precision, with all caches and positions.

    `bandwidth` is that of the device in bytes/s, or None if it depends on the model.
    """
    config = SHAPES[shape]
    on_gpu = options.target == "cuda"
    if not on_gpu:
        check_memory(config, precision)
    checkpoint = Checkpoint(config, random_weights(config, precision, shared=on_gpu))
    case = {"shape": shape, "weights": precision, "target": options.target}
    llama: Any = None
    if options.torch:
        with report.attempt(**case, peer="torch"):
            llama = import_module("torch_llama").Llama(config, precision, options.target)
    for cache in options.cache:
        case["cache"] = cache
        with ExitStack() as stack:
            models: list[tuple[str, hk.Model, dict[str, float]]] = []
            for schedule in options.schedule:
                name = "hamkaas" if schedule == "auto" else f"hamkaas, {schedule}"
                with report.attempt(**case, peer=name):
                    graphs = Transformer(config, checkpoint.weights, CACHES[cache]).decode()
                    model, times = compile_cold_and_warm(graphs, target=options.target, schedule=schedule)
                    models.append((name, stack.enter_context(model), times))
            for position in options.position:
                here = case | {"position": position, "tokens": options.tokens}
                if (end := position + options.tokens) > config.max_positions:
                    report.fail(f"expected at most {config.max_positions} positions, got {end}", **here)
                    continue
                row = [
                    Contestant(name, partial(generate, model, position, options.tokens), times)
                    for name, model, times in models
                ]
                for kind in options.torch if llama is not None else []:
                    with report.attempt(**here, peer=TORCH[kind]):
                        row.append(torch_peer(llama, kind, cache, position, options.tokens))
                if precision == cache == "f32" and position == 0:
                    row += llama2c_peers(config, checkpoint, options, stack)
                here["bytes_per_token"] = bytes_read(checkpoint, cache, position, options.tokens)
                read = models[0][1]["next"].bandwidth if bandwidth is None and models else lambda: bandwidth
                compare(row, here, options.repeats, report, read)


def check_memory(config: Config, precision: str) -> None:
    """Raises `MemoryError` rather than let the system end the process."""
    size = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}[precision]
    needed = size * sum(prod(shape) for _, shape in config.weight_shapes())
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.9 * present:
        raise MemoryError(f"the weights take {needed:,} bytes of {present:,}")


def generate(model: hk.Model, position: int, tokens: int) -> float:
    """Seconds per token of one generation."""
    model.reset()
    model["start"](token=np.array([1]), position=np.array([position]))
    started = time.perf_counter()
    model["next"].evaluate({}, times=tokens)
    return (time.perf_counter() - started) / tokens


def torch_peer(llama: Any, kind: str, cache: str, position: int, tokens: int) -> Contestant:
    """PyTorch with weights and cache of the same precision."""
    decoder = import_module("torch_llama").Decoder(llama, kind, cache, position, tokens)
    name = TORCH[kind] if llama.device == "cuda" else TORCH[kind].removesuffix(", CUDA graph")
    return Contestant(name, decoder.generate, {"compile_seconds": round(decoder.compile_seconds, 2)})


def llama2c_peers(
    config: Config, checkpoint: Checkpoint, options: argparse.Namespace, stack: ExitStack
) -> list[Contestant]:
    """Builds of llama2.c with the same weights, in a file until `stack` ends."""
    if not options.llama2c:
        return []
    folder = Path(stack.enter_context(TemporaryDirectory()))
    llama2c.write_model(config, checkpoint.weights, folder)
    return [
        Contestant(f"llama2.c ({path})", partial(llama2c.generate, path, folder, options.tokens))
        for path in options.llama2c
    ]


def bytes_read(checkpoint: Checkpoint, cache: str, position: int, tokens: int) -> int:
    """Bytes of weights, keys and values that a token reads, on average of all that are generated."""
    config = checkpoint.config
    positions = position + (tokens + 1) / 2
    row = 2 * config.num_layers * config.kv_dim * (4 if cache == "f32" else 2)
    return checkpoint.step_bytes + round(positions * row)


def compare(
    row: list[Contestant], case: dict[str, Any], repeats: int, report: Report, read: Callable[[], float | None]
) -> None:
    """Lets all generate in turn, once to warm up and then `repeats` times, and reports each.

    `read` takes turns with them: it measures the bandwidth (bytes/s), which changes where a machine is shared.
    """
    bandwidth: float | None = None
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in row}
    for _ in range(repeats + 1):
        for contestant in list(row):
            with report.attempt(**case, peer=contestant.name):
                seconds[contestant.name].append(contestant.generate())
                continue
            row.remove(contestant)
        bandwidth = max(bandwidth or 0.0, read() or 0.0) or None
    for contestant in row:
        times = seconds[contestant.name][1:]
        rate = case["bytes_per_token"] / min(times)
        result = {
            "peer": contestant.name,
            "tokens_per_second": round(1 / min(times), 1),
            "tokens_per_second_median": round(1 / median(times), 1),
            "us_per_token": round(min(times) * 1e6, 1),
            "GB_per_second": round(rate / 1e9, 1),
        }
        if bandwidth is not None:
            result["bandwidth_GB_per_second"] = round(bandwidth / 1e9, 1)
            result["percent_of_bandwidth"] = round(100 * rate / bandwidth, 1)
        report.add(case | result | contestant.details)


if __name__ == "__main__":
    sys.exit(main())
