"""Reads the names and shapes of a model's weights from the heads of their files, and no weight."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open

from trbert.checkpoint.json_text import read_object

HEADER = 25_000_000
"""The most bytes of the header of a safetensors file. That of 10,000 weights has about one million."""

Shapes = dict[str, tuple[int, ...]]
"""The shape of each weight, by its name in the files."""


def shards_of(index: Path) -> tuple[str, ...]:
    """Returns the names of the files among which an index divides the weights.

    Raises:
        ValueError: The index is no JSON object, names no files, or names one that is not beside it.
    """
    found = read_object(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(f"{index.name} must name the file of each weight, and does not")
    names = sorted(set(found.values()))
    for name in names:
        if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
            raise ValueError(f"{index.name} must name files that are beside it, and names {name[:60]!r}")
    return tuple(names)


def shapes_of(files: Iterable[Path]) -> Shapes:
    """Returns the shape of every weight in some files, safetensors or those that `torch.save` wrote.

    Raises:
        ValueError: The header of a file does not fit the file.
        Exception: The library that reads the file refuses it, with an error of its own.
    """
    shapes: Shapes = {}
    for path in files:
        shapes.update(_of_safetensors(path) if path.suffix == ".safetensors" else _of_pickle(path))
    return shapes


def _of_safetensors(path: Path) -> Shapes:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(HEADER, size - 8):
        raise ValueError(
            f"the header of {path.name} must lie within the file and have at most {HEADER // 1_000_000} MB, and it has "
            f"{length} bytes in a file of {size}"
        )
    # The library checks the rest: each weight lies within the file, no two overlap, and none has more than its bytes.
    with safe_open(path, framework="pt") as weights:
        return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118


def _of_pickle(path: Path) -> Shapes:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = [each.filename for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"{path.name} must not be compressed, and {packed[0][:60]!r} within it is")
    state = torch.load(path, map_location="meta", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"{path.name} must hold weights by their names, and holds a {type(state).__name__}")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    for name, value in tensors.items():
        if value.numel() * value.element_size() > path.stat().st_size:
            raise ValueError(f"{name!r} in {path.name} has the shape {list(value.shape)}, which is more than the file")
    return {name: tuple(value.shape) for name, value in tensors.items()}
