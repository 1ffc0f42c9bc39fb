"""The folders of a run's models: they are used only where they hold files and folders alone."""

import json
from pathlib import Path
from typing import Any

from trbert.disk.files import files_below, kind_of, read_plain
from trbert.errors import DamagedCheckpoint, RunFolderError
from trbert.wording import reason, shown

_LARGEST_CONFIG = 4_000_000


def model_folder(run: Path, model: str) -> Path:
    """Returns the folder of a run's model. Nothing in it leads out of the run, which somebody else may have made.

    Args:
        run: the run's folder.
        model: the model as a point names it, such as "models/3".

    Raises:
        DamagedCheckpoint: There is no such folder, or it cannot be read.
        RunFolderError: It, `models` or something in it is a symbolic link, a pipe, or of another such kind.
    """
    folder = run / model
    try:
        kinds = {each: (kind_of(each), "a folder") for each in (folder.parent, folder)}
        if all(kind == wanted for kind, wanted in kinds.values()):
            kinds |= {folder / name: (kind_of(folder / name), "a file") for name in files_below(folder)}
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{run} must hold {model}, and does not: copy it back, or search again") from error
    except OSError as error:
        raise DamagedCheckpoint(
            f"{folder} must be a folder that can be read, and is not ({reason(error)}): copy it back, or search again"
        ) from error
    for path, (kind, wanted) in kinds.items():
        if kind != wanted:
            raise RunFolderError(
                f"the models of a run must be files and folders of its own, and {path} is {kind}, which may lead out "
                f"of the run: put {wanted} in its place, or do not use this model"
            )
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Returns what the config.json of a model holds.

    Raises:
        DamagedCheckpoint: It is missing or damaged, or larger than 4 MB.
    """
    try:
        config = json.loads(read_plain(folder / "config.json", _LARGEST_CONFIG))
    except FileNotFoundError as error:
        raise DamagedCheckpoint(
            f"{folder} must hold config.json, and does not: search again, or copy it back"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedCheckpoint(
            f"{folder}/config.json is not JSON that can be read ({reason(error)}): search again, or copy it back"
        ) from error
    if not isinstance(config, dict):
        raise DamagedCheckpoint(f"{folder}/config.json must be a JSON object, and is {shown(config)}: search again")
    return config
