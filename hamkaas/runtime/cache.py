"""A folder of compiled code.

An entry is a file: the sha256 of its content, then the content. Writing goes through a temporary file that is renamed
when it is complete, so that a process that is killed leaves no broken entry; an entry that does not match its digest
is a miss, and is replaced. The folder must belong to the user alone, since what is in it will be executed.
"""

import hashlib
import logging
import os
import stat
import tempfile
import time
from pathlib import Path

FORMAT = 1
"""Part of every key: counts up when the meaning of what is stored changes."""

MAX_BYTES = 512 << 20
"""Size beyond which the entries that were not used for longest are deleted."""

_DIGEST = 32
_STALE_SECONDS = 3600
_log = logging.getLogger(__name__)


def cache_key(kind: str, *parts: str) -> str:
    """The name of an entry: a digest of everything that its content depends on."""
    digest = hashlib.sha256()
    for part in (str(FORMAT), kind, *parts):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


class DiskCache:
    """Bytes by key in `folder`, which is made if it is missing.

    A cache never fails: a folder that cannot be used, or that others may write to, makes every look-up a miss. Says
    so once, to the log.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._usable = self._prepare()

    def get(self, key: str) -> bytes | None:
        """The content of an entry; None if there is none or it is damaged."""
        if not self._usable:
            return None
        path = self.folder / key
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
            _log.warning("cache entry %s is damaged and will be rebuilt", path)
            return None
        try:
            os.utime(path)  # marks it as used
        except OSError:
            pass
        return data[_DIGEST:]

    def put(self, key: str, content: bytes) -> None:
        """Stores an entry, in place of what was there."""
        if not self._usable:
            return
        try:
            handle, name = tempfile.mkstemp(prefix=".new-", dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest())
                    file.write(content)
                os.replace(name, self.folder / key)
            except BaseException:
                os.unlink(name)
                raise
            self._shrink()
        except OSError as error:
            _log.warning("cannot write to the cache %s: %s", self.folder, error)

    def _prepare(self) -> bool:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.stat()
        except OSError as error:
            _log.warning("cannot use the cache %s: %s", self.folder, error)
            return False
        if os.name == "posix" and (found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            _log.warning("the cache %s is not used: others may write to it", self.folder)
            return False
        return True

    def _shrink(self) -> None:
        """Deletes what was not used for longest beyond the size limit, and what killed writers left."""
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # another process was faster
            if path.name.startswith(".new-") and found.st_mtime < time.time() - _STALE_SECONDS:
                path.unlink(missing_ok=True)
            elif not path.name.startswith("."):
                entries.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= MAX_BYTES:
                break
            path.unlink(missing_ok=True)
            total -= size
