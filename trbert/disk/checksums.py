"""The checksums of a saved model: a file beside it, which tells later whether a file was damaged."""

import hashlib
import os
import re
from pathlib import Path

from trbert.disk.files import files_below, open_plain, read_plain, write_whole
from trbert.errors import DamagedCheckpoint
from trbert.wording import briefly_listed, reason

SUMS = "SHA256SUMS"
"""The name of the file. `sha256sum -c SHA256SUMS`, run in the model's folder, reads it, too."""

_LARGEST = 4_000_000
_LINE = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](.+)")
_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}


def write_checksums(folder: Path) -> None:
    r"""Writes the checksums of all files in a model's folder, at any depth, to its file SHA256SUMS.

    They tell damage, not tampering: whoever changes a file can write them anew.

    Raises:
        DamagedCheckpoint: A file cannot be read, or is a pipe or a device.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_text("{}")
        >>> write_checksums(folder)
        >>> (folder / "SHA256SUMS").read_text()
        '44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a  config.json\n'
    """
    lines = []
    for name in _names(folder):
        try:
            lines.append(_line(name, _digest(folder / name)))
        except OSError as error:
            raise DamagedCheckpoint(
                f"{folder} must hold files that can be read, and {str(name)!r} cannot ({reason(error)}): "
                "remove it, or save the model again"
            ) from error
    write_whole(folder / SUMS, b"".join(lines))


def check_checksums(folder: Path) -> None:
    """Checks that a model's folder holds the files that `write_checksums` saw, and no others.

    Raises:
        DamagedCheckpoint: A file is missing, has changed, cannot be read, or is not listed. Or there are no checksums.
    """
    listed = _listed(folder)
    there = _names(folder)
    faults: dict[str, list[Path]] = {"missing": [name for name in listed if name not in there]}
    faults |= {"changed": [], "unreadable": []}
    for name in there:
        try:
            if name in listed and _digest(folder / name) != listed[name]:
                faults["changed"].append(name)
        except OSError:
            faults["unreadable"].append(name)
    faults["not listed"] = [name for name in there if name not in listed]
    told = [f"{what}: {briefly_listed(map(str, names))}" for what, names in faults.items() if names]
    if told:
        raise DamagedCheckpoint(
            f"the files of {folder} must be those that {SUMS} lists, and some are not ({'; '.join(told)}): "
            "copy the model again, or save it again"
        )


def _names(folder: Path) -> list[Path]:
    """Returns the paths of all files but that of the checksums, relative to the folder."""
    try:
        return [name for name in files_below(folder) if name != Path(SUMS)]
    except OSError as error:
        raise DamagedCheckpoint(
            f"{folder} must be the folder of a model, and cannot be read as one ({reason(error)}): copy the model again"
        ) from error


def _digest(path: Path) -> str:
    with open_plain(_target(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _target(path: Path) -> Path:
    """Returns the file that a link leads to: the cache of Hugging Face's hub holds links to files."""
    return Path(os.path.realpath(path))


def _line(name: Path, digest: str) -> bytes:
    plain = os.fsencode(name.as_posix())
    escaped = re.sub(rb"[\\\n\r]", lambda found: _ESCAPES[found[0]], plain)
    return (b"\\" if escaped != plain else b"") + digest.encode() + b"  " + escaped + b"\n"


def _listed(folder: Path) -> dict[Path, str]:
    """Returns the digest of each file that the folder's checksums list.

    Raises:
        DamagedCheckpoint: There are no checksums, or the file holds something else.
    """
    path = folder / SUMS
    try:
        lines = read_plain(_target(path), _LARGEST).split(b"\n")
    except FileNotFoundError as error:
        raise DamagedCheckpoint(
            f"{folder} must hold {SUMS} to be verified, and does not, so that damage cannot be told: load it without "
            "verifying, or save it again with this version of trbert"
        ) from error
    except OSError as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({reason(error)}): copy the model again") from error
    found, back = {}, {escape: plain for plain, escape in _ESCAPES.items()}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match:
            name = re.sub(rb"\\[\\nr]", lambda each: back[each[0]], match[3]) if match[1] else match[3]
            found[Path(os.fsdecode(name))] = match[2].decode()
        elif line:
            raise DamagedCheckpoint(
                f"{path} must have lines as sha256sum writes them, and line {number} is not one: copy the model again"
            )
    return found
