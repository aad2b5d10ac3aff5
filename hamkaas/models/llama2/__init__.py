"""Llama 2: model files, tokenizers, graph, sampling, the loop of generation and conversations."""

from hamkaas.models.llama2.chat import Chat
from hamkaas.models.llama2.checkpoint import Checkpoint, Quantized
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.generate import Step, generate, model_step
from hamkaas.models.llama2.graph import build_step
from hamkaas.models.llama2.load import load_checkpoint
from hamkaas.models.llama2.sampler import Sampler, Xorshift
from hamkaas.models.llama2.tokenizer import BOS, EOS, ScoredTokenizer, TextStream, Tokenizer, load_tokenizer

__all__ = [
    "BOS",
    "EOS",
    "Chat",
    "Checkpoint",
    "Config",
    "Quantized",
    "Sampler",
    "ScoredTokenizer",
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
