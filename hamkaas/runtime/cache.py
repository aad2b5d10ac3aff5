"""A folder of compiled code that survives the process: bytes by key, whatever the target.

A cache never makes a compile fail: what cannot be read is a miss, what cannot be written is logged and forgotten.
Entries are machine code that this process will run, so a folder that somebody else could write to is not used.
Each entry says what it is the answer to, and each miss is noted down, so that a person can find out why there was one
(`hamkaas-cache explain`).
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FORMAT = "2"
"""Part of every key: raise it when the meaning of an entry changes, and the old entries age away."""

MAX_BYTES = 512 << 20
"""Size of the folder in bytes beyond which the entries that were not used for longest are removed."""

_DIGEST_BYTES = hashlib.sha256().digest_size
_TEMPORARY_PREFIX = ".new-"
_STALE_SECONDS = 3600.0
"""A temporary file of this age belongs to a writer that was killed: writing an entry takes well under a second."""

_MISSES = "misses.jsonl"
_MAX_MISSES_BYTES = 64 << 10
"""Size of the notes about misses beyond which the older half is forgotten."""

_LONGEST = 64
"""Characters of a part that are shown; of a longer one, which is a program, its digest is."""


@dataclass(frozen=True)
class CacheKey:
    """What an entry is the answer to: its kind ('cubin', ...) and everything that decides its content, by name."""

    kind: str
    parts: tuple[tuple[str, str], ...]

    @staticmethod
    def of(kind: str, **parts: str) -> "CacheKey":
        """The key with these parts."""
        return CacheKey(kind, tuple(sorted(parts.items())))

    @property
    def name(self) -> str:
        """SHA-256 in hex, over all parts."""
        digest = hashlib.sha256()
        for part in (FORMAT, self.kind, *(text for item in self.parts for text in item)):
            data = part.encode()
            digest.update(b"%d:" % len(data))  # the length keeps ("ab", "c") and ("a", "bc") apart
            digest.update(data)
        return digest.hexdigest()

    @property
    def shown(self) -> dict[str, str]:
        """The parts for people: a long one by the start of its digest."""
        return {
            name: text if len(text) <= _LONGEST else f"#{hashlib.sha256(text.encode()).hexdigest()[:12]}"
            for name, text in self.parts
        }


@dataclass(frozen=True)
class Entry:
    """What a person may want to know of an entry, or of a miss."""

    kind: str
    about: dict[str, str]
    note: str = ""
    size: int = 0
    """Bytes."""
    used: float = 0.0
    """Time of the last use, in seconds since 1970."""


def nearest(miss: Entry, entries: Iterator[Entry] | list[Entry]) -> tuple[Entry, dict[str, str]] | None:
    """The entry of the same kind that differs from a miss in the fewest parts, and its values of these."""
    best: tuple[Entry, dict[str, str]] | None = None
    for entry in entries:
        if entry.kind == miss.kind:
            other = {name: entry.about.get(name, "nothing") for name in miss.about}
            differing = {name: text for name, text in other.items() if text != miss.about[name]}
            if best is None or len(differing) < len(best[1]):
                best = entry, differing
    return best


def private_folder(folder: Path) -> bool:
    """Makes `folder` (mode 0700) if it is missing; whether it is ours and nobody else may write to it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        logger.warning("cache folder %s is not used: %s", folder, error)
        return False
    if status.st_uid != os.getuid():
        logger.warning("cache folder %s is not used: expected owner %d, got %d", folder, os.getuid(), status.st_uid)
        return False
    if status.st_mode & 0o022:
        logger.warning("cache folder %s is not used: others may write to it (mode %o)", folder, status.st_mode & 0o777)
        return False
    return True


class DiskCache:
    """Bytes by key in a private folder; safe for many processes at once, and for writers that are killed.

    An entry is a file `<key>.bin`: the SHA-256 of the rest, a line of JSON about it, and the data. It appears by one
    atomic rename, so a reader sees all of it or nothing; the digest catches what a crash of the machine or a bad disk
    left behind.
    """

    def __init__(self, folder: Path | None, *, max_bytes: int = MAX_BYTES):
        """`folder` None (the cache is switched off) or not private: every `get` is a miss and `put` does nothing."""
        self._folder = folder if folder is not None and private_folder(folder) else None
        self._max_bytes = max_bytes

    def get(self, key: CacheKey) -> bytes | None:
        """The data stored under `key`, or None. A damaged entry is removed and is a miss; a miss is noted down."""
        if self._folder is None:
            return None
        path = self._folder / f"{key.name}.bin"
        try:
            entry = path.read_bytes()
        except OSError:
            self._note_miss(self._folder, key)
            return None
        digest, content = entry[:_DIGEST_BYTES], entry[_DIGEST_BYTES:]
        with suppress(OSError):  # another process may have removed the file since
            if hashlib.sha256(content).digest() != digest:
                logger.warning("cache entry %s is damaged and is made anew", path)
                path.unlink()
                return None
            os.utime(path)  # the time of the last use decides what goes first
        return content.partition(b"\n")[2]

    def put(self, key: CacheKey, data: bytes, note: str = "") -> None:
        """Stores `data` under `key`, replacing what was there, and removes the oldest entries beyond the size limit.

        `note` is for people who list the entries.
        """
        head = json.dumps({"kind": key.kind, "about": key.shown, "note": note}).encode() + b"\n"
        if self._folder is None or len(head) + len(data) + _DIGEST_BYTES > self._max_bytes:
            return
        try:
            self._write(self._folder, key.name, head + data)
            self._trim(self._folder)
        except OSError as error:
            logger.warning("cache entry %s was not stored in %s: %s", key.name, self._folder, error)

    def entries(self) -> list[Entry]:
        """What is in the cache, the last used first. What cannot be read is left out."""
        found: list[Entry] = []
        for path in self._folder.glob("*.bin") if self._folder is not None else ():
            with suppress(OSError, ValueError, KeyError, TypeError):
                with path.open("rb") as file:
                    file.seek(_DIGEST_BYTES)
                    head: dict[str, Any] = json.loads(file.readline())
                status = path.stat()
                found.append(Entry(head["kind"], dict(head["about"]), head["note"], status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: -entry.used)

    def misses(self) -> list[Entry]:
        """The look-ups that found nothing, the last one first, each once."""
        found: dict[str, Entry] = {}
        for line in reversed(self._read_misses()):
            with suppress(ValueError, KeyError, TypeError):
                miss: dict[str, Any] = json.loads(line)
                found.setdefault(line, Entry(miss["kind"], dict(miss["about"])))
        return list(found.values())

    def clear(self) -> tuple[int, int]:
        """Removes all entries and notes; gives the number of entries that went and their bytes."""
        number = size = 0
        for path in self._folder.iterdir() if self._folder is not None else ():
            with suppress(OSError):
                if path.suffix == ".bin":
                    number, size = number + 1, size + path.stat().st_size
                if path.suffix == ".bin" or path.name == _MISSES or path.name.startswith(_TEMPORARY_PREFIX):
                    path.unlink()
        return number, size

    def _note_miss(self, folder: Path, key: CacheKey) -> None:
        line = json.dumps({"kind": key.kind, "about": key.shown}) + "\n"
        with suppress(OSError):
            path = folder / _MISSES
            if path.exists() and path.stat().st_size > _MAX_MISSES_BYTES:
                lines = self._read_misses()
                path.write_text("".join(f"{old}\n" for old in lines[len(lines) // 2 :]))
            with path.open("a") as file:
                file.write(line)

    def _read_misses(self) -> list[str]:
        try:
            return (self._folder / _MISSES).read_text().splitlines() if self._folder is not None else []
        except OSError:
            return []

    def _write(self, folder: Path, name: str, content: bytes) -> None:
        # In the same folder, because a rename is atomic only within one file system.
        descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(content).digest())
                file.write(content)
            os.replace(temporary, folder / f"{name}.bin")
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _trim(self, folder: Path) -> None:
        """Removes stale temporary files, then the entries used longest ago until the rest fits."""
        entries: list[tuple[float, int, Path]] = []
        for path in folder.iterdir():
            with suppress(OSError):  # another process may trim at the same time
                status = path.stat()
                if path.name.startswith(_TEMPORARY_PREFIX):
                    if time.time() - status.st_mtime > _STALE_SECONDS:
                        path.unlink()
                elif path.suffix == ".bin":
                    entries.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in entries) - self._max_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                break
            with suppress(OSError):
                path.unlink()
            excess -= size
