"""CUDA C++ to machine code with NVRTC; needs neither a GPU nor a driver.

Code is compiled to a cubin, never to PTX that the driver would compile again: that saves time at every start, and
works with a driver that is older than the compiler.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hamkaas import knobs
from hamkaas.errors import CompileError, TargetError
from hamkaas.runtime.cache import CacheKey, DiskCache

NAME = "hamkaas.cu"
"""What the compiler's messages call the source."""

OPTIONS = ("--std=c++17", "--fmad=false", "--ptxas-options=-v")
"""No contraction: where a multiplication and an addition are to be one fma, the kernel says so."""


@dataclass(frozen=True)
class KernelResources:
    """What a kernel takes of the machine, as ptxas reports it."""

    name: str
    registers: int
    """Per thread."""
    spill_stores: int
    """Bytes per thread."""
    spill_loads: int
    """Bytes per thread."""
    stack: int
    """Bytes per thread."""
    shared_bytes: int
    """Per block."""


@dataclass(frozen=True)
class Cubin:
    """Machine code for one architecture, and what the compiler said."""

    image: bytes
    log: str
    """Empty if the code comes from the cache."""


def compile_cubin(
    source: str, arch: str, *, use_cache: bool = True, progress: Callable[[str], None] | None = None
) -> Cubin:
    """Compiles CUDA C++ for an architecture such as "sm_90"; equal sources are compiled once.

    `progress` is told if the code is not in the cache.

    Raises `CompileError` with the compiler's messages, and `TargetError` if NVRTC is not installed.
    """
    nvrtc = _load()
    folder = knobs.cache_dir() if use_cache else None
    cache = None if folder is None else DiskCache(folder)
    major, minor = _check(nvrtc, nvrtc.nvrtcVersion())
    key = CacheKey.of("cubin", source=source, arch=arch, options=" ".join(OPTIONS), nvrtc=f"{major}.{minor}")
    if cache is not None and (found := cache.get(key)) is not None:
        return Cubin(found, "")
    if progress is not None:
        progress(f"compiling {len(source):,} characters of CUDA C++ for {arch}")
    program, log = _compile(nvrtc, source, arch)
    size = _check(nvrtc, nvrtc.nvrtcGetCUBINSize(program))
    buffer = bytearray(size)
    _check(nvrtc, nvrtc.nvrtcGetCUBIN(program, buffer))
    image = bytes(buffer)
    _check(nvrtc, nvrtc.nvrtcDestroyProgram(program))
    if cache is not None:
        cache.put(key, image)
    return Cubin(image, log)


def compile_ptx(source: str, arch: str) -> str:
    """The PTX of CUDA C++, for reading: HamKaas never loads it."""
    nvrtc = _load()
    program, _ = _compile(nvrtc, source, arch.replace("sm_", "compute_"))
    size = _check(nvrtc, nvrtc.nvrtcGetPTXSize(program))
    text = bytearray(size)
    _check(nvrtc, nvrtc.nvrtcGetPTX(program, text))
    _check(nvrtc, nvrtc.nvrtcDestroyProgram(program))
    return text.rstrip(b"\0").decode()


def resources(log: str) -> list[KernelResources]:
    """What each kernel takes, from the log of `compile_cubin`."""
    found: list[KernelResources] = []
    for part in re.split(r"Compiling entry function '", log)[1:]:

        def number(pattern: str, part: str = part) -> int:
            match = re.search(pattern, part)
            return int(match[1]) if match else 0

        found.append(
            KernelResources(
                name=part.partition("'")[0],
                registers=number(r"Used (\d+) registers"),
                spill_stores=number(r"(\d+) bytes spill stores"),
                spill_loads=number(r"(\d+) bytes spill loads"),
                stack=number(r"(\d+) bytes stack frame"),
                shared_bytes=number(r"(\d+) bytes smem"),
            )
        )
    return found


def _load() -> Any:
    """The bindings, if the library behind them can be found too."""
    try:
        nvrtc: Any = import_module("cuda.bindings.nvrtc")
        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise TargetError(
            f"NVRTC is not available ({error}); install it with: pip install cuda-python nvidia-cuda-nvrtc"
        ) from None
    return nvrtc


def _compile(nvrtc: Any, source: str, arch: str) -> tuple[Any, str]:
    program = _check(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), NAME.encode(), 0, None, None))
    options = [f"--gpu-architecture={arch}".encode(), *(option.encode() for option in OPTIONS)]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    size = _check(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
    # Never `b" " * size`, as samples have it: for an empty log, of size 1, that is the one object that every b" " of
    # the process is, and NVRTC would turn all of them into b"\\0".
    text = bytearray(size)
    _check(nvrtc, nvrtc.nvrtcGetProgramLog(program, text))
    log = text.rstrip(b"\0").decode()
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _check(nvrtc, nvrtc.nvrtcDestroyProgram(program))
        raise CompileError(f"NVRTC for {arch}: {result.name}\n{log}{_keep(source)}")
    return program, log


def _keep(source: str) -> str:
    """Keeps a source that does not compile where dumps are wanted."""
    folder = knobs.DUMP.get()
    if folder is None:
        return "\n(HAMKAAS_DUMP=folder keeps the source)"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    path.write_text(source)
    return f"\nthe source is {path}"


def _check(nvrtc: Any, result: tuple[Any, ...]) -> Any:
    """The values behind a return code; raises `CompileError` if it is not success."""
    code, *values = result
    if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError(f"NVRTC: {code.name}")
    return values[0] if len(values) == 1 else tuple(values)
