"""Which kind of file a model is in."""

from collections.abc import Callable
from pathlib import Path

from hamkaas.errors import CheckpointError
from hamkaas.models.llama2.checkpoint import Checkpoint
from hamkaas.models.llama2.gguf_file import load_gguf
from hamkaas.models.llama2.llama2c import load_llama2c


def load_checkpoint(path: Path, progress: Callable[[int, int], None] | None = None) -> Checkpoint:
    """Reads a model file: llama2.c's versions 0, 1 and 2, or GGUF.

    `progress` is told (tensors read, tensors in all) where reading takes long. Raises `CheckpointError` for a file that
    is missing, of another kind, or of a wrong size.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    return load_gguf(path, progress) if magic == b"GGUF" else load_llama2c(path)
