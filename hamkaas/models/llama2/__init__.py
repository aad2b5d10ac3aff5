"""Llama 2: model files, tokenizers, graph, sampling, the loop of generation and conversations."""

from hamkaas.models.llama2.chat import Chat
from hamkaas.models.llama2.checkpoint import Checkpoint, Quantized, Weight
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.generate import Feed, ModelFeed, Step, chunk_inputs, chunk_size, generate, model_step, parts
from hamkaas.models.llama2.graph import build_chunk, build_graphs, build_step
from hamkaas.models.llama2.load import load_checkpoint
from hamkaas.models.llama2.sampler import Sampler, Xorshift
from hamkaas.models.llama2.tokenizer import BOS, EOS, ScoredTokenizer, TextStream, Tokenizer, load_tokenizer

__all__ = [
    "BOS",
    "EOS",
    "Chat",
    "Checkpoint",
    "Config",
    "Feed",
    "ModelFeed",
    "Quantized",
    "Sampler",
    "ScoredTokenizer",
    "Step",
    "TextStream",
    "Tokenizer",
    "Weight",
    "Xorshift",
    "build_chunk",
    "build_graphs",
    "build_step",
    "chunk_inputs",
    "chunk_size",
    "generate",
    "load_checkpoint",
    "load_tokenizer",
    "model_step",
    "parts",
]
