"""Generated CUDA becomes machine code for sm_90, without a GPU; what the compiler says of registers and spills."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import Case, Maker, cases

import hamkaas as hk
from hamkaas.artifact import Launch
from hamkaas.compiler import compile_artifact
from hamkaas.frontend import build_module
from hamkaas.models.llama2 import Config, Transformer, build_graphs, build_step
from hamkaas.runtime import nvrtc
from hamkaas.runtime.nvrtc import compile_cubin, compile_ptx, resources

ARCH = "sm_90"
ELF = b"\x7fELF"

MODELS = {
    "260K": Config(64, 172, 5, 8, 4, 512, 512, True),
    "15M": Config(288, 768, 6, 6, 6, 32000, 256, True),
    "110M": Config(768, 2048, 2, 12, 12, 32000, 1024, True),
    "1B": Config(2048, 8192, 2, 32, 8, 128256, 2048, True),
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


def test_no_load_may_leave_its_place() -> None:
    # ptxas moves what PTX calls .nc behind the wait for the launches ahead, and the reads of weights with it
    assert "ld.global.nc" not in compile_ptx(step_source(MODELS["15M"]), ARCH)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("heads", "kv", "d"), [(32, 32, 128), (32, 8, 64), (64, 8, 128), (6, 6, 48), (4, 2, 80), (2, 1, 256), (2, 1, 512)]
)
def test_attention_does_not_spill(heads: int, kv: int, d: int, dtype: str) -> None:
    query, length = hk.InputTensor("q", "float32", [heads, d]), hk.InputTensor("n", "int64", [1])
    keys, values = (hk.BufferTensor(dtype, [20000, kv, d], name) for name in ("keys", "values"))
    artifact = compile_artifact(build_module({"main": query.attention(keys, values, length)}), "cuda", ARCH)
    (kernel,) = resources(compile_cubin(artifact.source, ARCH, use_cache=False).log)
    assert (kernel.spill_stores, kernel.spill_loads, kernel.stack) == (0, 0, 0)
    assert kernel.registers <= 128  # two blocks of 256 threads on each multiprocessor


@pytest.mark.parametrize(("name", "size"), [("260K", 8), ("260K", 64), ("15M", 64), ("odd", 8), ("7B", 256)])
def test_chunks_compile(name: str, size: int) -> None:
    config = MODELS[name]
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in config.weight_shapes()}
    graphs = build_graphs(config, weights, size)
    source = compile_artifact(build_module(graphs), "cuda", ARCH).source
    assert compile_cubin(source, ARCH).image.startswith(ELF)


def test_before_sm_90_there_are_no_clusters_and_no_dependent_launches() -> None:
    query, length = hk.InputTensor("q", "float32", [2, 64]), hk.InputTensor("n", "int64", [1])
    cache = hk.BufferTensor("float32", [4096, 2, 64], "keys"), hk.BufferTensor("float32", [4096, 2, 64], "values")
    built = build_module({"main": query.attention(*cache, length)})
    for arch, clusters in (("sm_80", False), ("sm_89", False), ("sm_90", True), ("sm_90a", True), ("sm_120", True)):
        artifact = compile_artifact(built, "cuda", arch)
        assert ("__cluster_dims__(8, 1, 1)" in artifact.source) == clusters
        assert ("griddepcontrol" in artifact.source) == clusters
        (launch,) = artifact.programs[0].steps
        assert isinstance(launch, Launch)
        assert launch.grid == (16 if clusters else 2)
        assert compile_cubin(artifact.source, arch).image.startswith(ELF)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", ["260K", "SmolLM2-135M", "odd"])
def test_generation_on_the_device_compiles(name: str, sampled: bool) -> None:
    weights = {weight: np.broadcast_to(np.float32(0), shape) for weight, shape in MODELS[name].weight_shapes()}
    graphs = Transformer(MODELS[name], weights).decode(sampled=sampled)
    cubin = compile_cubin(compile_artifact(build_module(graphs), "cuda", ARCH).source, ARCH, use_cache=False)
    assert all((kernel.spill_stores, kernel.spill_loads) == (0, 0) for kernel in resources(cubin.log))


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


@pytest.mark.parametrize(("is_product", "arch"), [(False, "sm_90"), (True, "sm_90"), (False, "sm_80"), (True, "sm_80")])
def test_only_sums_of_products_are_fused(is_product: bool, arch: str) -> None:
    # else a value would depend on what it is computed beside, which the kernel interpreter could not show
    m = Maker(0)
    x, y, z = (m.real(16, 16) for _ in range(3))
    pairs = [one.reshape(16, 8, 2) for one in (x, y)]
    graph = x @ y if is_product else x * y + z + pairs[0].complex_hadamard_product(pairs[1]).reshape(16, 16)
    source = compile_artifact(build_module({"main": graph}), "cuda", arch).source
    assert ("fma.rn" in compile_ptx(source, arch)) == is_product
