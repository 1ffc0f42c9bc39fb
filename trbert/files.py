"""Files: how to write one so that it is never half written, and the folder of the cache."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns the folder of files that trbert can make again: `$TRBERT_CACHE`, or else `~/.cache/trbert`."""
    chosen = os.environ.get("TRBERT_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "trbert"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: first a new file beside it, which is then moved to its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
