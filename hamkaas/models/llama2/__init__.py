"""Llama 2: model files, tokenizers, graphs, sampling, the loop of generation, conversations and perplexity."""

from hamkaas.models.llama2.bursts import BURST, Bursts
from hamkaas.models.llama2.chat import TEMPLATES, Chat, with_template
from hamkaas.models.llama2.checkpoint import Checkpoint, Quantized, Weight
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.generate import (
    Feed,
    ModelFeed,
    Source,
    Step,
    Steps,
    chunk_inputs,
    chunk_size,
    generate,
    model_step,
    parts,
)
from hamkaas.models.llama2.graph import (
    Transformer,
    build_burst_graphs,
    build_chunk,
    build_graphs,
    build_step,
)
from hamkaas.models.llama2.load import load_checkpoint, load_tokenizer
from hamkaas.models.llama2.meter import Meter, report
from hamkaas.models.llama2.perplexity import Perplexity, model_rows, perplexity
from hamkaas.models.llama2.sampler import Sampler, Xorshift
from hamkaas.models.llama2.tokenizer import (
    BOS,
    EOS,
    ScoredTokenizer,
    StopStrings,
    TextStream,
    Tokenizer,
)

__all__ = [
    "BOS",
    "BURST",
    "EOS",
    "TEMPLATES",
    "Bursts",
    "Chat",
    "Checkpoint",
    "Config",
    "Feed",
    "Meter",
    "ModelFeed",
    "Perplexity",
    "Quantized",
    "Sampler",
    "ScoredTokenizer",
    "Source",
    "Step",
    "Steps",
    "StopStrings",
    "TextStream",
    "Tokenizer",
    "Transformer",
    "Weight",
    "Xorshift",
    "build_burst_graphs",
    "build_chunk",
    "build_graphs",
    "build_step",
    "chunk_inputs",
    "chunk_size",
    "generate",
    "load_checkpoint",
    "load_tokenizer",
    "model_rows",
    "model_step",
    "parts",
    "perplexity",
    "report",
    "with_template",
]
