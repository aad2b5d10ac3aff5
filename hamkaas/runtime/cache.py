"""A folder of compiled code that survives the process: bytes by key, whatever the target.

A cache never makes a compile fail: what cannot be read is a miss, what cannot be written is logged and forgotten.
Entries are machine code that this process will run, so a folder that somebody else could write to is not used.
"""

import hashlib
import logging
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

FORMAT = "1"
"""Part of every key: raise it when the meaning of an entry changes, and the old entries age away."""

MAX_BYTES = 512 << 20
"""Size of the folder in bytes beyond which the entries that were not used for longest are removed."""

_DIGEST_BYTES = hashlib.sha256().digest_size
_TEMPORARY_PREFIX = ".new-"
_STALE_SECONDS = 3600.0
"""A temporary file of this age belongs to a writer that was killed: writing an entry takes well under a second."""


def cache_key(kind: str, *parts: str) -> str:
    """The key of an entry: SHA-256 in hex over its kind ('cubin', ...) and everything that decides its content."""
    digest = hashlib.sha256()
    for part in (FORMAT, kind, *parts):
        data = part.encode()
        digest.update(b"%d:" % len(data))  # the length keeps ("ab", "c") and ("a", "bc") apart
        digest.update(data)
    return digest.hexdigest()


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

    An entry is a file `<key>.bin`: the SHA-256 of the data, then the data. It appears by one atomic rename, so a reader
    sees all of it or nothing; the digest catches what a crash of the machine or a bad disk left behind.
    """

    def __init__(self, folder: Path | None, *, max_bytes: int = MAX_BYTES):
        """`folder` None (the cache is switched off) or not private: every `get` is a miss and `put` does nothing."""
        self._folder = folder if folder is not None and private_folder(folder) else None
        self._max_bytes = max_bytes

    def get(self, key: str) -> bytes | None:
        """The data stored under `key` (see `cache_key`), or None. A damaged entry is removed and is a miss."""
        if self._folder is None:
            return None
        path = self._folder / f"{key}.bin"
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        digest, data = entry[:_DIGEST_BYTES], entry[_DIGEST_BYTES:]
        with suppress(OSError):  # another process may have removed the file since
            if hashlib.sha256(data).digest() != digest:
                logger.warning("cache entry %s is damaged and is made anew", path)
                path.unlink()
                return None
            os.utime(path)  # the time of the last use decides what goes first
        return data

    def put(self, key: str, data: bytes) -> None:
        """Stores `data` under `key`, replacing what was there, and removes the oldest entries beyond the size limit."""
        if self._folder is None or len(data) + _DIGEST_BYTES > self._max_bytes:
            return
        try:
            self._write(self._folder, key, data)
            self._trim(self._folder)
        except OSError as error:
            logger.warning("cache entry %s was not stored in %s: %s", key, self._folder, error)

    def _write(self, folder: Path, key: str, data: bytes) -> None:
        # In the same folder, because a rename is atomic only within one file system.
        descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(data).digest())
                file.write(data)
            os.replace(temporary, folder / f"{key}.bin")
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
