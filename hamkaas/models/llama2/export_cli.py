"""hamkaas-export: writes any model that can be read as a checkpoint of llama2.c."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hamkaas.errors import HamkaasError
from hamkaas.models.llama2.export import export_v0, export_v2
from hamkaas.models.llama2.load import load_checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads, writes; gives the exit code."""
    parser = argparse.ArgumentParser(prog="hamkaas-export", description="Writes a model as a checkpoint of llama2.c.")
    parser.add_argument("model", type=Path, help="a checkpoint of llama2.c, a GGUF file or a folder of Hugging Face")
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument("--version", type=int, choices=[0, 2], default=0, help="0: float32 (default); 2: Q8_0")
    parser.add_argument("--group", type=int, help="numbers that share a scale in version 2 (default: 64)")
    options = parser.parse_args(arguments)
    if options.group is not None and (options.version != 2 or options.group < 1):
        parser.error(f"argument --group: expected at least 1, with --version 2, got {options.group}")
    try:
        checkpoint = load_checkpoint(options.model)
        if options.version == 0:
            export_v0(checkpoint, options.output)
        else:
            export_v2(checkpoint, options.output, options.group or 64)
    except HamkaasError as error:
        print(f"hamkaas-export: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, say
        print(f"hamkaas-export: error: {options.output}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"wrote {options.output}: {options.output.stat().st_size:,} bytes", file=sys.stderr)
    return 0


def entry() -> None:
    """The console script."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("hamkaas-export: interrupted", file=sys.stderr)
        sys.exit(130)
