"""Where a plain model is: a folder, or a name on the Hugging Face hub."""

import contextlib
import functools
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from transformers.utils.hub import cached_file

from trbert.checkpoint.json_text import read_json, read_object
from trbert.errors import DamagedCheckpoint, InputError, ModelNotFound, TrbertError, UnsupportedModel


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of a model are.

    Attributes:
        name: what the user calls the model.
        source: the folder with config.json, or the name on the hub.
        local: whether the source is a folder.
    """

    name: str
    source: str
    local: bool

    @property
    def unasked(self) -> bool:
        """Whether the hub is not asked: for a folder, and where the hub cannot be reached, which many tries would find.

        What was fetched before is read without it.
        """
        return self.local or not hub_answers()

    def file(self, name: str) -> Path | None:
        """Returns one of the model's files, or None if there is no such file. A file of the hub is fetched."""
        if self.local:
            path = Path(self.source) / name
            return path if os.path.isfile(path) else None
        try:
            found = cached_file(self.source, name, local_files_only=self.unasked)
        except (OSError, ValueError):
            return None
        return None if found is None else Path(found)

    def json(self, name: str) -> dict[str, Any]:
        """Returns the content of a JSON file; {} if there is no such file.

        Raises:
            DamagedCheckpoint: It is no JSON object, or breaks a limit.
        """
        path = self.file(name)
        try:
            return read_object(path) if path else {}
        except (OSError, ValueError) as error:
            raise self.damaged(error) from error

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Turns an error of the system, met while the model's files are read, into the one to raise."""
        try:
            yield
        except TrbertError:
            raise
        except OSError as error:
            if not self.local:
                raise
            raise self.damaged(error) from error

    def damaged(self, error: BaseException) -> TrbertError:
        """Returns the error to raise where a file of the model is there, and is not as it must be."""
        kind = "model folder" if self.local else "model"
        return DamagedCheckpoint(
            f"{kind} {self.source} is not whole ({' '.join(str(error).split())}): copy or save it again"
        )

    def failed(self, error: Exception) -> TrbertError:
        """Returns the error to raise where files of the model could not be found or read."""
        if self.local:
            return self.damaged(error)
        silent = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f"{ENDPOINT} does not answer"
        offline = "" if hub_answers() else f" ({silent})"
        return ModelNotFound(
            f"model {self.name!r} is no folder here and could not be fetched from the hub{offline}: "
            "pass --model with a folder that holds config.json, model.safetensors and the tokenizer, or 'minilm'"
        )


@functools.cache
def hub_answers() -> bool:
    """Returns whether the hub can be reached. It is asked once in a process, without the tries of huggingface_hub."""
    if HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=_PATIENCE).close()
    except urllib.error.HTTPError:  # an answer
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # huggingface_hub may know other certificates
    except OSError:
        return False
    return True


_PATIENCE = 10
"""How many seconds the hub has to answer."""


def find_model(name: str) -> tuple[Place, tuple[str, ...]]:
    """Returns where a model is, and notes on how it was found.

    Args:
        name: a folder, or a name on the hub.

    Raises:
        InputError: The name is a file.
        UnsupportedModel: It is an adapter, and no whole model.
        DamagedCheckpoint: The folder holds no config.json.
    """
    folder = Path(name)
    if os.path.isfile(folder):
        raise InputError(f"--model must be a folder or a name on the hub, and is the file {name}: pass {folder.parent}")
    place = Place(name, name, local=os.path.isdir(folder))
    check_no_adapter(place)
    if not place.local:
        return place, ()
    notes: tuple[str, ...] = ()
    within = _of_sentence_transformers(folder)
    if within is not None:
        notes = (
            f"model {name} is one of sentence-transformers: its encoder is taken, and its own pooling and the layers "
            "after it are left out",
        )
        folder = within
        check_no_adapter(Place(name, str(folder), local=True))
    if not os.path.isfile(folder / "config.json"):
        models = _models_within(folder)
        remedy = f"pass the model within it, {models[-1]}" if models else "pass a saved model"
        raise DamagedCheckpoint(f"model folder {folder} must hold config.json, and does not: {remedy}")
    return Place(name, str(folder), local=True), notes


def check_no_adapter(place: Place) -> None:
    """Checks that a model is no adapter. Transformers would load the model that the adapter names, from anywhere.

    Raises:
        UnsupportedModel: It is one.
    """
    if place.file("adapter_config.json"):
        raise UnsupportedModel(
            f"model {place.name} must be a whole model, and is an adapter (adapter_config.json): load it with peft, "
            "call model.merge_and_unload(), and save what that returns to another folder with save_pretrained"
        )


def check_is_whole_model(folder: Path) -> None:
    """Checks that a folder holds nothing that transformers would load in place of the model, whatever it holds.

    Raises:
        UnsupportedModel: It holds an adapter, or parts of a model that several machines saved.
    """
    check_no_adapter(Place(str(folder), str(folder), local=True))
    if part := next((path for path in folder.iterdir() if _OF_MACHINES.match(path.name)), None):
        raise UnsupportedModel(
            f"model folder {folder} must hold its weights in model.safetensors, and has parts of several machines, "
            f"such as {part.name}: save the whole model with save_pretrained"
        )


_OF_MACHINES = re.compile(r"shard-\d+-model-.*\.safetensors$")
"""Files of a distributed checkpoint. Transformers prefers them to all others."""


def _models_within(folder: Path) -> list[Path]:
    """Returns the models that a folder holds, as a run of a trainer or the cache of the hub does, the newest last."""
    if not os.path.isdir(folder):  # a name may be too long for one, and glob would fail by it
        return []
    configs = [*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")]
    weights = ("*.safetensors", "*.bin")
    models = [path.parent for path in configs if any(any(path.parent.glob(kind)) for kind in weights)]
    return sorted(models, key=lambda model: model.stat().st_mtime)


def _of_sentence_transformers(folder: Path) -> Path | None:
    """Returns the folder of the encoder in a folder of sentence-transformers; None for a folder of another kind."""
    path = folder / "modules.json"
    try:
        within = Path(read_json(path)[0]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return folder if within.is_absolute() or ".." in within.parts else folder / within


def check_file(path: Path) -> None:
    """Checks that a file of a saved model is there.

    Raises:
        DamagedCheckpoint: It is not.
    """
    if not path.is_file():
        raise DamagedCheckpoint(f"{path.parent} must hold {path.name}, and does not: copy or save the model again")
