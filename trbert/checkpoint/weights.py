"""Finds the weights of a plain model, and tells what else was found in their place."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trbert.checkpoint.headers import shards_of
from trbert.checkpoint.place import Place, check_is_whole_model
from trbert.checkpoint.sizes import Held, Misfit, check_numbers, check_stacks, misfits, without_memory
from trbert.errors import DamagedCheckpoint, InputError, TrbertError, UnsupportedModel
from trbert.packed.heads import has_head

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

OTHERS = {
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "model.ckpt.index": "TensorFlow",
    "bert_model.ckpt.index": "TensorFlow",
    "model.onnx": "ONNX",
    "onnx/model.onnx": "ONNX",
    "openvino_model.xml": "OpenVINO",
    "model.gguf": "GGUF",
}
"""Files of weights that are not read, with the name of what made them."""


def find_weights(place: Place) -> tuple[str, tuple[str, ...]]:
    """Returns the name of the file of a model's weights, or of the index of its files, and notes on it.

    Raises:
        DamagedCheckpoint: There are no weights, or pointers of Git LFS in their place.
        UnsupportedModel: The weights are of another library.
    """
    if place.local:
        _check_files(Path(place.source))
    whole = next((name for name in SAFETENSORS if place.file(name)), None)
    if whole:
        return whole, ()
    pickled = next((name for name in PICKLED if place.file(name)), None)
    if pickled:
        return pickled, (
            f"model {place.name} has its weights in {pickled} alone, of which tensors alone are read and no code is "
            "run: save it once with model.save_pretrained(folder), which writes model.safetensors",
        )
    for name, library in OTHERS.items():
        if place.file(name):
            raise UnsupportedModel(
                f"model {place.name} must hold weights of PyTorch (model.safetensors), and holds those of {library} "
                f"alone ({name}): pass the same model as PyTorch saved it, or convert it there with an older "
                "transformers and save_pretrained"
            )
    raise place.failed(FileNotFoundError("it has no model.safetensors"))


def read_heads(place: Place, name: str) -> Held:
    """Returns what the files of a model's weights hold, from the heads of the files alone.

    Args:
        place: where the model is.
        name: the file of the weights, or the index of their files.

    Raises:
        DamagedCheckpoint: A file is missing or cut off, or its head does not fit it.
        InputError: A file holds other things than weights.
    """
    try:
        return Held.by(_files(place, name))
    except Exception as error:  # safetensors, zipfile and the unpickler of torch have errors of many classes
        raise unread(place, error) from error


def read_state(place: Place, name: str) -> dict[str, Tensor]:
    """Returns all weights of a model by their names in the files.

    Call it once the sizes are known to be right, because it takes the memory for them.

    Args:
        place: where the model is.
        name: the file of the weights, or the index of their files.

    Raises:
        DamagedCheckpoint: A file is missing or cut off.
        InputError: A file holds other things than weights.
    """
    state: dict[str, Any] = {}
    try:
        for path in _files(place, name):
            safe = path.suffix == ".safetensors"
            state |= load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as in `read_heads`
        raise unread(place, error) from error
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _files(place: Place, name: str) -> tuple[Path, ...]:
    """Returns the files that hold a model's weights."""
    found = place.file(name)
    names = (name,) if found is None or not name.endswith(".json") else shards_of(found)
    files = []
    for each in names:
        path = place.file(each)
        if path is None:
            raise FileNotFoundError(f"it has no {each}")
        files.append(path)
    return tuple(files)


def check_sizes(
    place: Place, make: Callable[[Any], Any], config: Any, held: Held, fine_tuned: bool, named: bool
) -> None:
    """Checks that the weights have the sizes that config.json declares, before memory is taken for the model.

    Args:
        place: where the model is.
        make: a function that takes a config and returns its model.
        config: the configuration.
        held: what the files hold.
        fine_tuned: whether the head of the model is needed.
        named: whether config.json names the outputs of the head.

    Raises:
        DamagedCheckpoint: They have others, or the values of config.json do not fit together.
        InputError: The head has more or fewer outputs than there are names.
    """
    try:
        check_stacks(place.json("config.json"), held)
        model = without_memory(make, config)
    except TrbertError:
        raise
    except Exception as error:  # transformers checks the values of a config with errors of many classes
        raise unread(place, error) from error
    _refuse(place, model, list(misfits(model, held)), fine_tuned, named)
    try:
        check_numbers(model, held)
    except ValueError as error:
        raise place.damaged(error) from error


def unread(place: Place, error: Exception) -> TrbertError:
    """Returns the error to raise where the weights could not be read."""
    if isinstance(error, TrbertError):
        return error
    if isinstance(error, KeyError):
        return place.failed(ValueError(f"transformers does not know {error}, which its config.json names"))
    if not isinstance(error, pickle.UnpicklingError | EOFError):
        return place.failed(error)
    whole, first = place.file(PICKLED[0]), sorted(Path(place.source).glob("pytorch_model-*.bin"))
    path = whole or (first[0] if first else Path(PICKLED[0]))
    if not _is_pickle(path):
        return DamagedCheckpoint(
            f"{path.name} of model {place.name} must be a file that torch.save wrote, and is not: copy it again"
        )
    return InputError(
        f"{path.name} of model {place.name} must hold tensors alone, and holds other objects, which are not read "
        "because that would run code from the file: if you trust it, load it once with torch.load and "
        "weights_only=False, and save the model with model.save_pretrained(folder)"
    )


def check_finite(place: Place, model: nn.Module) -> None:
    """Checks that every weight is a finite number.

    Raises:
        DamagedCheckpoint: One is not.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise DamagedCheckpoint(
                f"the weights of model {place.name} must be finite numbers, and {count} of the {value.numel()} in "
                f"{name!r} are nan or inf: save it again, or take an earlier checkpoint of it"
            )


def check_report(place: Place, model: Any, report: dict[str, Any], fine_tuned: bool, named: bool) -> tuple[str, ...]:
    """Checks that the weights are those that config.json speaks of, and returns notes on those that are not used.

    The head may be missing, unless the model was fine-tuned. So may the pooler, which masked language models do not
    have.

    Args:
        place: where the model is.
        model: the model that was loaded.
        report: what transformers reports of loading it.
        fine_tuned: whether its head is needed.
        named: whether config.json names the outputs of the head. If not, the labels of the data were taken as names.

    Raises:
        DamagedCheckpoint: A weight is missing or of another shape.
        InputError: The head has more or fewer outputs than there are names.
    """
    unused = sorted(report["unexpected_keys"])
    for name in sorted(report["missing_keys"]):
        if fine_tuned or (_of_encoder(model, name) and "pooler" not in name):
            instead = f", but {unused[0]!r}" if unused and not any(_of_encoder(model, each) for each in unused) else ""
            head = "" if _of_encoder(model, name) else ", or pass --new-head"
            raise DamagedCheckpoint(
                f"model {place.name} must hold the weight {name!r}, and does not{instead}: copy or save it again{head}"
            )
    found = [Misfit(name, tuple(own), tuple(wanted), "") for name, own, wanted in sorted(report["mismatched_keys"])]
    _refuse(place, model, found, fine_tuned, named)
    layers = [name for name in unused if _of_encoder(model, name) and "pooler" not in name]
    if not layers:
        return ()
    return (
        f"model {place.name}: {len(layers)} of the weights in its files have no place in the model that its "
        f"config.json describes, and are left out, such as {layers[0]!r}",
    )


def _of_encoder(model: Any, name: str) -> bool:
    """Returns whether a weight of this name is one of the encoder, and not of a head."""
    prefix = f"{model.base_model_prefix}."
    if has_head(model):
        return name.startswith(prefix)
    return name.removeprefix(prefix).split(".")[0] in dict(model.named_children())


def _refuse(place: Place, model: Any, found: list[Misfit], fine_tuned: bool, named: bool) -> None:
    """Raises the error for the first weight of another shape. The head is left out where it need not be kept."""
    for each in found:
        of_head = not _of_encoder(model, each.name)
        if of_head and not fine_tuned:
            continue
        if of_head and each.found[1:] == each.wanted[1:] and each.wanted[0] == model.config.num_labels:
            raise InputError(_number_refused(place, each.wanted[0], each.found[0], named))
        raise place.damaged(
            ValueError(
                each.why
                or f"its weight {each.name!r} has the shape {list(each.found)}, and config.json says "
                f"{list(each.wanted)}"
            )
        )


def _number_refused(place: Place, names: int, outputs: int, named: bool) -> str:
    if named:
        return (
            f"config.json of model {place.name} must name as many labels as its head has outputs, and names {names}, "
            f"while the head has {outputs}: correct id2label in config.json, or pass --new-head"
        )
    return (
        f"the head of model {place.name} must have an output for each of the {names} labels of the data, and has "
        f"{outputs}: pass --new-head to take its encoder with a new head"
    )


def _check_files(folder: Path) -> None:
    """Raises the error for files that are not what their names say, or that transformers would read instead."""
    check_is_whole_model(folder)
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("tokenizer.json")]):
        if not os.path.isfile(path):
            raise DamagedCheckpoint(
                f"{path} must be a file, or a symbolic link to one, and is not: copy or save the model again"
            )
        with path.open("rb") as file:
            pointer = file.read(64).startswith(b"version https://git-lfs")
        if pointer:
            raise DamagedCheckpoint(
                f"{path} must be the file itself, and is a pointer of Git LFS: run `git lfs pull` in {folder}"
            )


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == b"\x80"
