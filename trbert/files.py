"""Files written so that nothing half-written is trusted, and where what can be made again is kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns where trbert keeps what it can make again: `$TRBERT_CACHE`, or `~/.cache/trbert`."""
    chosen = os.environ.get("TRBERT_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "trbert"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: beside its place first, on the disk, then moved there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
