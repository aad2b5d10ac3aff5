"""Generated CUDA becomes machine code for sm_90, without a GPU; what the compiler says of registers and spills."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import Case, cases

import hamkaas as hk
from hamkaas.compiler import compile_artifact
from hamkaas.frontend import build_module
from hamkaas.models.llama2 import Config, build_graphs, build_step
from hamkaas.runtime import nvrtc
from hamkaas.runtime.nvrtc import compile_cubin, compile_ptx, resources

ARCH = "sm_90"
ELF = b"\x7fELF"

MODELS = {
    "260K": Config(64, 172, 5, 8, 4, 512, 512, True),
    "15M": Config(288, 768, 6, 6, 6, 32000, 256, True),
    "110M": Config(768, 2048, 2, 12, 12, 32000, 1024, True),
    "7B": Config(4096, 11008, 2, 32, 32, 32000, 2048, False),
    "SmolLM2-135M": Config(576, 1536, 2, 9, 3, 49152, 8192, True),
    "odd": Config(36, 172, 2, 3, 1, 33, 17, False),
}
"""Layers beyond the second one make no new kernels."""


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in cases()])
def test_operation(make: Callable[[], Case]) -> None:
    artifact = compile_artifact(build_module({"main": make().outputs}), "cuda", ARCH)
    assert compile_cubin(artifact.source, ARCH).image.startswith(ELF)


def step_source(config: Config) -> str:
    # of a weight the compiler looks at nothing but its type: one number in memory stands for all
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in config.weight_shapes()}
    return compile_artifact(build_module({"step": build_step(config, weights)}), "cuda", ARCH).source


@pytest.mark.parametrize("name", MODELS)
def test_llama2_kernels_do_not_spill(name: str) -> None:
    cubin = compile_cubin(step_source(MODELS[name]), ARCH, use_cache=False)
    kernels = resources(cubin.log)
    assert len(kernels) >= 5
    for kernel in kernels:
        assert (kernel.spill_stores, kernel.spill_loads, kernel.stack) == (0, 0, 0), kernel
        assert 0 < kernel.registers <= 255


@pytest.mark.parametrize(("name", "size"), [("260K", 8), ("260K", 64), ("15M", 64), ("odd", 8), ("7B", 256)])
def test_chunks_compile(name: str, size: int) -> None:
    config = MODELS[name]
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in config.weight_shapes()}
    graphs = build_graphs(config, weights, size)
    source = compile_artifact(build_module(graphs), "cuda", ARCH).source
    assert compile_cubin(source, ARCH).image.startswith(ELF)


def test_equal_layers_share_kernels() -> None:
    two, six = (step_source(Config(288, 768, layers, 6, 6, 32000, 256, True)) for layers in (2, 6))
    # a kernel's arguments are named after the first layer that uses it
    assert re.sub(r"layers_\d", "layers", two) == re.sub(r"layers_\d", "layers", six)


def test_errors_show_the_compilers_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HAMKAAS_DUMP", str(tmp_path))
    with pytest.raises(hk.CompileError, match=r'hamkaas.cu\(1\): error: identifier "y" is undefined') as caught:
        compile_cubin("__global__ void f(float* x) { *x = y; }", ARCH)
    kept = re.search(r"the source is (.*)", str(caught.value))
    assert kept is not None
    assert "*x = y" in Path(kept[1]).read_text()


def test_nvrtc_writes_into_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # `bytes` are shared: for an empty log, of size 1, b" " * size is the b" " of the whole process
    written: list[type] = []

    class Spy:
        def __getattr__(self, name: str) -> object:
            found = getattr(real, name)
            if name not in ("nvrtcGetProgramLog", "nvrtcGetCUBIN", "nvrtcGetPTX"):
                return found
            return lambda program, buffer: (written.append(type(buffer)), found(program, buffer))[1]

    real = nvrtc._load()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(nvrtc, "_load", Spy)
    source = 'extern "C" __global__ void f(float* x) { *x = 1; }'
    compile_cubin(source, ARCH, use_cache=False)
    compile_ptx(source, ARCH)
    assert written == [bytearray] * 4


def test_ptx_is_text() -> None:
    assert ".visible .entry f" in compile_ptx('extern "C" __global__ void f(float* x) { *x = 1; }', ARCH)
