"""The cache of compiled code: private, atomic, bounded, and never a reason to fail."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hamkaas.runtime.cache import CacheKey, DiskCache, nearest

KEY = CacheKey.of("cubin", source="source")


def test_keys_tell_parts_apart() -> None:
    assert CacheKey.of("a", x="bc").name != CacheKey.of("a", xb="c").name
    assert CacheKey.of("a", x="b", y="c").name == CacheKey.of("a", y="c", x="b").name


def test_entries_and_misses_tell_what_they_are_about(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    old, new = (CacheKey.of("cubin", source="x" * 100, nvrtc=version) for version in ("13.0", "13.5"))
    cache.put(old, b"code", "a note")
    assert cache.get(new) is None
    assert cache.get(new) is None
    (entry,), (miss,) = cache.entries(), cache.misses()
    assert (entry.kind, entry.note, entry.about) == ("cubin", "a note", old.shown)
    assert entry.about["source"].startswith("#")
    found = nearest(miss, cache.entries())
    assert found == (entry, {"nvrtc": "13.0"})
    assert nearest(miss, []) is None
    assert cache.clear() == (1, entry.size)
    assert (cache.entries(), cache.misses()) == ([], [])


def test_notes_about_misses_stay_few(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    for number in range(2000):
        cache.get(CacheKey.of("cubin", source=str(number)))
    assert cache.misses()[0].about == {"source": "1999"}
    assert (tmp_path / "cache" / "misses.jsonl").stat().st_size < 70_000


def test_what_is_put_is_got(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    assert cache.get(KEY) is None
    cache.put(KEY, b"code")
    assert DiskCache(tmp_path / "cache").get(KEY) == b"code"
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 32 + b"other code"])
def test_a_damaged_entry_is_a_miss_and_goes_away(tmp_path: Path, damage: bytes) -> None:
    cache = DiskCache(tmp_path)
    tmp_path.chmod(0o700)
    cache = DiskCache(tmp_path)
    cache.put(KEY, b"code")
    entry = tmp_path / f"{KEY.name}.bin"
    entry.write_bytes(damage)
    assert cache.get(KEY) is None
    assert not entry.exists()
    cache.put(KEY, b"code")
    assert cache.get(KEY) == b"code"


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o777)
    cache = DiskCache(tmp_path)
    cache.put(KEY, b"code")
    assert cache.get(KEY) is None
    assert list(tmp_path.iterdir()) == []
    assert "others may write to it (mode 777)" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    cache = DiskCache(tmp_path / "file" / "cache")
    cache.put(KEY, b"code")
    assert cache.get(KEY) is None
    assert "is not used" in caplog.text


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", max_bytes=700)
    keys = [CacheKey.of("entry", number=str(number)) for number in range(4)]
    for age, key in enumerate(keys[:3]):
        cache.put(key, bytes(100))
        os.utime(tmp_path / "cache" / f"{key.name}.bin", (1000 + age, 1000 + age))
    cache.get(keys[0])  # now the youngest
    cache.put(keys[3], bytes(100))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]


def test_a_writer_that_is_killed_leaves_no_broken_entry(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    code = f"""
import pathlib
from hamkaas.runtime.cache import CacheKey, DiskCache
cache = DiskCache(pathlib.Path({str(folder)!r}))
print("ready", flush=True)
while True:
    cache.put({KEY!r}, b"x" * 5_000_000)
"""
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.05)
            writer.kill()
        assert DiskCache(folder).get(KEY) in (None, b"x" * 5_000_000)
    # what the killed writers left behind goes away in time
    for leftover in folder.glob(".new-*"):
        os.utime(leftover, (0, 0))
    DiskCache(folder).put(KEY, b"code")
    assert list(folder.glob(".new-*")) == []
