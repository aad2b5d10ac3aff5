#!/usr/bin/env python3
"""Prefill speed: the logits behind a prompt of N tokens in one pass, with random weights, on a GPU.

    prefill.py --shape 7B --tokens 512 128 --activations bf16 --cudnn auto off [--layers 4] [--regions]
    prefill.py --shape 7B --torch graph compile --json prefill.json

Each line is JSON: tokens/s of whole calls (inputs up, logits down), of the device alone, TFLOP/s, the time from graph
to code that is ready to run (cold, or warm if no cuDNN graph was built), and that of uploading the weights. `--regions`
adds a line for each distinct cuDNN graph: its best plan, the first that cuDNN offers, our own kernels, and PyTorch, in
microseconds. Weights and cache have the type of the activations (f32 for tf32). `--torch` adds the same prompt in
PyTorch, captured in a CUDA graph.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from report import Report
from shapes import CACHES, PRECISIONS, SHAPES, random_weights
from timing import compile_timed

import hamkaas as hk
from hamkaas.api import choose_target
from hamkaas.artifact import CudnnGraph, Execute
from hamkaas.models.llama2 import Config, Transformer, chunk_inputs
from hamkaas.remarks import collect
from hamkaas.tune import cudnn as tune

TORCH = {"graph": "torch eager, CUDA graph", "compile": "torch.compile, CUDA graph"}
CUDNN: dict[str, Any] = {"auto": "auto", "on": True, "off": False}


def main() -> int:
    """Measures all combinations; 1 if one of them failed."""
    options = parse()
    report = Report("cuda", options.json)
    with report.attempt(peer="torch"):
        if options.torch:
            import_module("torch_llama")
    if report.failed:
        options.torch = []  # not installed, as the report says once
    for shape, activations in product(options.shape, options.activations):
        config = replace(SHAPES[shape], num_layers=options.layers or SHAPES[shape].num_layers)
        weights = random_weights(config, PRECISIONS[activations], shared=True)
        for tokens in options.tokens:
            case = {"shape": shape, "layers": config.num_layers, "tokens": tokens, "activations": activations}
            for cudnn in options.cudnn:
                with report.attempt(**case, cudnn=cudnn):
                    measure(config, weights, case | {"cudnn": cudnn}, options, report)
            for kind in options.torch:
                with report.attempt(**case, peer=TORCH[kind]):
                    report.add(case | {"peer": TORCH[kind]} | measure_torch(config, activations, kind, tokens, options))
                import_module("torch_llama").free_memory()
    return int(report.failed)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures prefill speed with random weights.")
    parser.add_argument("--shape", choices=list(SHAPES), nargs="+", default=["15M"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 128])
    parser.add_argument("--activations", choices=list(PRECISIONS), nargs="+", default=["bf16"])
    parser.add_argument("--cudnn", choices=list(CUDNN), nargs="+", default=["auto"])
    parser.add_argument("--layers", type=int, help="instead of those of the shape")
    parser.add_argument("--regions", action="store_true")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--torch", choices=list(TORCH), nargs="+", default=[], help="peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows")
    options = parser.parse_args()
    try:
        choose_target("cuda")
    except hk.TargetError as error:
        parser.error(str(error))
    return options


def measure(config: Config, weights: Any, case: dict[str, Any], options: argparse.Namespace, report: Report) -> None:
    """One row, and those of the regions."""
    tokens, activations = case["tokens"], case["activations"]
    graph = Transformer(config, weights, CACHES[PRECISIONS[activations]]).chunk(tokens)
    inputs = chunk_inputs([1] * tokens, 0, tokens) | {"row": np.array([tokens - 1])}
    with collect() as remarks:
        made = compile_timed(graph, target="cuda", activations=activations, cudnn=CUDNN[case["cudnn"]])
    assert made.model is not None
    with made.model as model:
        whole = min(timed(lambda: model.evaluate(inputs)) for _ in range(options.repeats))
        device = min(model.runtime.replay(0, 5) for _ in range(3))  # type: ignore[attr-defined]
        steps, plans = model.artifact.programs[0].steps, model.artifact.plans
    result = {
        "peer": "hamkaas",
        "tokens_per_second": round(tokens / whole),
        "tokens_per_second_on_device": round(tokens / device),
        "ms": round(whole * 1e3, 3),
        "ms_on_device": round(device * 1e3, 3),
        "tflops": round(flops(config, tokens) / whole / 1e12, 1),
        "compile_seconds": round(made.compile_seconds, 2),
        "load_seconds": round(made.load_seconds, 2),
        "cudnn_graphs": len(plans),
        "cudnn_graphs_built": sum(what.startswith("compiling a cuDNN graph") for what in made.slow_steps),
        "executions": sum(isinstance(step, Execute) for step in steps),
        "launches": len(steps),
    }
    report.add(case | result)
    for remark in remarks:
        if "our own kernels" in remark.why:
            print(f"  {remark}", flush=True)
    for plan in plans if options.regions else ():
        report.add(region(plan.graph))


def measure_torch(
    config: Config, activations: str, kind: str, tokens: int, options: argparse.Namespace
) -> dict[str, Any]:
    """The figures of PyTorch for a prompt."""
    torch, torch_llama = import_module("torch"), import_module("torch_llama")
    torch.backends.cuda.matmul.allow_tf32 = activations == "tf32"
    prompt = torch_llama.Prompt(torch_llama.Llama(config, PRECISIONS[activations], "cuda"), kind, tokens)
    seconds = min(prompt.seconds() for _ in range(options.repeats))
    device = min(prompt.seconds_on_device() for _ in range(3))
    return {
        "tokens_per_second": round(tokens / seconds),
        "tokens_per_second_on_device": round(tokens / device),
        "ms": round(seconds * 1e3, 3),
        "ms_on_device": round(device * 1e3, 3),
        "tflops": round(flops(config, tokens) / seconds / 1e12, 1),
        "compile_seconds": round(prompt.compile_seconds, 1),
    }


def flops(config: Config, tokens: int) -> float:
    """Operations of the products and of the attention, the logits of one row included."""
    matrices = config.dim * (2 * config.dim + 2 * config.kv_dim) + 3 * config.dim * config.hidden_dim
    attention = 2 * tokens * config.dim  # half of the scores and of what they weigh are masked
    return 2 * config.num_layers * tokens * (matrices + attention / 2) + 2 * config.dim * config.vocab_size


def timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def region(graph: CudnnGraph) -> dict[str, Any]:
    """What a graph takes in microseconds, whoever computes it."""
    from hamkaas.runtime.cuda import check, default_arch, first_gpu
    from hamkaas.runtime.cudnn import Device, build_plans
    from hamkaas.runtime.cudnn_plans import choose
    from hamkaas.runtime.cudnn_reference import tolerance
    from hamkaas.runtime.cudnn_trial import Bench
    from hamkaas.runtime.device_array import driver

    with ExitStack() as stack:
        gpu = stack.enter_context(first_gpu())
        stream = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        stack.callback(lambda: check(driver.cuStreamDestroy(stream)))
        device = Device.present(gpu.name, int(stream))
        stack.callback(device.close)
        started = time.perf_counter()
        plans = build_plans(graph, device)
        built = time.perf_counter() - started
        bench = Bench(graph, device, stream, stack)
        best = choose(plans, bench.attempt, tolerance(graph))
        first = choose(plans[:1], bench.attempt, tolerance(graph))
        own = tune.own_microseconds(graph, default_arch(), gpu.name)
    return {
        "region": graph.label,
        "best_us": round(best.microseconds, 1),
        "best_plan": best.plan.name if best.plan is not None else best.why,
        "first_us": round(first.microseconds, 1),
        "first_plan": plans[0].name,
        "plans": len(plans),
        "build_seconds": round(built, 1),
        "own_us": round(own, 1),
        "torch_us": round(torch_microseconds(graph), 1),
    }


def torch_microseconds(graph: CudnnGraph) -> float:
    """The same in eager PyTorch, captured in a CUDA graph, on inputs that are in no cache."""
    import torch
    from torch_llama import captured

    types = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int32": torch.int32}
    torch.backends.cuda.matmul.allow_tf32 = graph.compute == "tf32"
    size = sum(graph.tensors[number].nbytes for number in graph.inputs)
    copies = max(1, min(20, -(-(128 << 20) // size)))

    def tensor(number: int) -> torch.Tensor:
        spec = graph.tensors[number]
        memory = torch.randn(spec.span, device="cuda").to(types[spec.dtype])
        return memory.as_strided(spec.dims, spec.strides)

    def run(values: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        values = dict(values)
        for node in graph.nodes:
            x, *others = [values[number] for number in node.inputs]
            match node.kind:
                case "matmul":
                    y = (x[0] @ others[0][0])[None] if len(x) == len(others[0]) == 1 else x @ others[0]
                case "add":
                    y = x + others[0]
                case "mul":
                    y = x * others[0]
                case "relu":
                    y = x.relu()
                case "silu":
                    y = torch.nn.functional.silu(x)
                case "rmsnorm":
                    y = torch.nn.functional.rms_norm(x, x.shape[-1:], others[0].view(-1).to(x.dtype), node.number)
                case "sum_of_squares":
                    y = x.float().square().sum(-1, keepdim=True)
                case "sdpa":
                    kv = [one[None] for one in others[:2]]
                    rows = x.shape[1]
                    if rows > 1:
                        kv = [one[:, :, :rows] for one in kv]
                    y = torch.nn.functional.scaled_dot_product_attention(
                        x[None], *kv, is_causal=rows > 1, enable_gqa=True
                    )[0]
                case _:
                    y = x
            narrow = graph.tensors[node.output].dtype if node.output in graph.outputs else graph.io
            values[node.output] = y.to(types[narrow])
        return [values[number] for number in graph.outputs]

    with torch.inference_mode():
        sets = [{number: tensor(number) for number in graph.inputs} for _ in range(copies)]
        replay = captured(lambda: [run(values) for values in sets])
        times: list[float] = []
        for _ in range(4):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            replay()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / copies)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
