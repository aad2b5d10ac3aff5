"""What a module was compiled to, on disk: whoever compiles the same again has it at once.

An entry holds all that code generation made, for one version of the compiler and of xDSL; the weights are not part of
it. Machine code is made from it by the runtimes, which keep that in the same folder.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from xdsl.dialects.builtin import ModuleOp

from hamkaas import knobs
from hamkaas.artifact import Artifact
from hamkaas.pipeline import CudaOptions
from hamkaas.remarks import collect, remark
from hamkaas.runtime.cache import CacheKey, DiskCache
from hamkaas.tune.digest import compiler_digest


@dataclass(frozen=True)
class Compiled:
    """The code of a module, and what was chosen for it."""

    artifact: Artifact
    options: CudaOptions
    depends_on_cudnn: bool = False
    """Whether cuDNN had a say in it: another version of it might say something else."""


def recall(module: ModuleOp, asked: dict[str, str], compile: Callable[[], Compiled]) -> Compiled:
    """What `compile` gives, from the disk if it was there before for an equal module.

    `asked` is all else that it depends on. Remarks are made again. With `HAMKAAS_DUMP` it is always compiled anew.
    """
    folder = knobs.cache_dir()
    if folder is None or knobs.DUMP.get() is not None:
        return compile()
    disk = DiskCache(folder)
    key = CacheKey.of(
        "artifact",
        module=str(module),
        compiler=compiler_digest(),
        xdsl=version("xdsl"),
        tune=str(knobs.TUNE.get()),
        **asked,
    )
    if (known := disk.get(key)) is not None:
        compiled, remarks = pickle.loads(known)  # the folder is ours alone, and holds machine code too
    else:
        with collect() as remarks:
            compiled = compile()
        if not compiled.depends_on_cudnn:
            names = ", ".join(program.name for program in compiled.artifact.programs)
            disk.put(key, pickle.dumps((compiled, remarks)), f"{names}: {len(compiled.artifact.kernels)} kernels")
    for one in remarks:
        remark(one.where, one.what, one.why)
    return compiled
