"""Llama 2: checkpoints, tokenizer, graph, sampling and the loop of generation."""

from hamkaas.models.llama2.checkpoint import Checkpoint, load_checkpoint
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.generate import Step, generate, model_step
from hamkaas.models.llama2.graph import build_step
from hamkaas.models.llama2.sampler import Sampler, Xorshift
from hamkaas.models.llama2.tokenizer import BOS, EOS, TextStream, Tokenizer, load_tokenizer

__all__ = [
    "BOS",
    "EOS",
    "Checkpoint",
    "Config",
    "Sampler",
    "Step",
    "TextStream",
    "Tokenizer",
    "Xorshift",
    "build_step",
    "generate",
    "load_checkpoint",
    "load_tokenizer",
    "model_step",
]
