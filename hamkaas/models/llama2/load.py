"""Which kind of file a model, or a tokenizer, is in."""

from collections.abc import Callable
from pathlib import Path

from hamkaas.errors import CheckpointError
from hamkaas.models.llama2.bpe import JsonTokenizer
from hamkaas.models.llama2.checkpoint import Checkpoint
from hamkaas.models.llama2.gguf_file import load_gguf
from hamkaas.models.llama2.huggingface import load_folder
from hamkaas.models.llama2.llama2c import load_llama2c
from hamkaas.models.llama2.sentencepiece import load_sentencepiece
from hamkaas.models.llama2.tokenizer import Tokenizer, load_llama2c_tokenizer


def load_checkpoint(path: Path, progress: Callable[[int, int], None] | None = None) -> Checkpoint:
    """Reads a model: llama2.c's versions 0, 1 and 2, GGUF, or a folder of Hugging Face.

    `progress` is told (tensors read, tensors in all) where reading takes long. Raises `CheckpointError` for a file that
    is missing, of another kind, or of a wrong size.
    """
    if path.is_dir():
        return load_folder(path, progress)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    return load_gguf(path, progress) if magic == b"GGUF" else load_llama2c(path)


def load_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """Reads a tokenizer of `vocab_size` tokens: `*.model` (sentencepiece), `*.json`, or else one of llama2.c.

    Raises `CheckpointError` for a file of another size or kind.
    """
    if path.suffix == ".json":
        return JsonTokenizer(path, vocab_size)
    if path.suffix != ".model":
        return load_llama2c_tokenizer(path, vocab_size)
    tokenizer = load_sentencepiece(path)
    if len(tokenizer.pieces) != vocab_size:
        raise CheckpointError(
            f"{path}: expected {vocab_size} tokens, as the checkpoint has, got {len(tokenizer.pieces)}"
        )
    return tokenizer
