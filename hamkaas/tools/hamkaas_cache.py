"""hamkaas-cache: what is in the cache of compiled code, and why a look-up found nothing."""

import argparse
import sys
import time
from pathlib import Path

from hamkaas import knobs
from hamkaas.runtime.cache import DiskCache, Entry, nearest

SHOWN = 20
"""Misses that are explained, the last ones."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="hamkaas-cache", description="Shows and clears the cache of compiled code.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="ls | clear | explain")
    commands.add_parser("ls", help="what is in it, the last used first")
    commands.add_parser("clear", help="remove everything")
    commands.add_parser("explain", help="why the last look-ups that found nothing did so")
    command = parser.parse_args(arguments).command
    folder = knobs.cache_dir()
    if folder is None:
        print(f"hamkaas-cache: the cache is switched off ({knobs.CACHE.name}=0)", file=sys.stderr)
        return 1
    if not folder.exists():
        print(f"{folder}: empty")
        return 0
    cache = DiskCache(folder)
    {"ls": list_entries, "clear": clear, "explain": explain}[command](cache, folder)
    return 0


def list_entries(cache: DiskCache, folder: Path) -> None:
    """A line for each entry."""
    entries = cache.entries()
    print(f"{folder}: {_entries(len(entries))}, {sum(entry.size for entry in entries):,} bytes")
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        print(f"{used} {entry.size:>12,} {entry.kind:<12} {entry.note or _about(entry.about)}")


def clear(cache: DiskCache, folder: Path) -> None:
    """Removes all entries."""
    number, size = cache.clear()
    print(f"{folder}: removed {_entries(number)}, {size:,} bytes")


def explain(cache: DiskCache, folder: Path) -> None:
    """For each of the last misses, in what it differs from the entry that is most like it."""
    entries, misses = cache.entries(), cache.misses()
    known = [(entry.kind, entry.about) for entry in entries]
    print(f"{folder}: {len(misses)} look-ups found nothing" + (f", the last {SHOWN}:" if len(misses) > SHOWN else ""))
    for miss in misses[:SHOWN]:
        print(f"{miss.kind}: {_about(miss.about)}")
        print(f"  {_reason(miss, entries, (miss.kind, miss.about) in known)}")


def _reason(miss: Entry, entries: list[Entry], is_there: bool) -> str:
    if is_there:
        return "was made then, and is there now"
    if (found := nearest(miss, entries)) is None:
        return f"nothing of kind '{miss.kind}' is in the cache"
    entry, other = found
    differs = ", ".join(f"{name} {text}" for name, text in other.items())
    return f"the entry that is most like it has {differs}" + (f" ({entry.note})" if entry.note else "")


def _entries(number: int) -> str:
    return f"{number} entry" if number == 1 else f"{number} entries"


def _about(about: dict[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in about.items())


def entry() -> None:
    """The command line."""
    try:
        sys.exit(main())
    except BrokenPipeError:  # `| head`
        sys.exit(141)


if __name__ == "__main__":
    entry()
