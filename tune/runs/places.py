"""Where a run keeps what does not lie in its folder: the names of its trials and states in a storage."""

import os

from tune.settings import Search


def is_uri(place: str) -> bool:
    """Returns whether a place is a URI, such as s3://bucket/runs, and not a folder of this machine."""
    return "://" in place


def below(place: str, name: str) -> str:
    """Returns the place of this name in a folder or URI. The options at the end of a URI stay at the end.

    Example:
        >>> below("s3://bucket/runs?region=eu-west-1", "mine-trials")
        's3://bucket/runs/mine-trials?region=eu-west-1'
    """
    path, mark, options = place.partition("?") if is_uri(place) else (place, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def trials_name(run: str) -> str:
    """Returns the name of the folder with the trials of the run of this id, in a storage that several runs share."""
    return f"{run}-trials"


def states_name(run: str) -> str:
    """Returns the name of the folder with the states of its teacher while it is trained."""
    return f"{run}-teacher-states"


def is_there(place: str) -> bool:
    """Returns whether something exists at a path or a URI; False if the URI cannot be asked."""
    if not is_uri(place):
        return os.path.lexists(place)
    import pyarrow.fs  # takes a part of a second, and most searches have no such storage

    try:
        files, path = pyarrow.fs.FileSystem.from_uri(place)
        return bool(files.get_file_info(path).type != pyarrow.fs.FileType.NotFound)
    except (OSError, ValueError):  # ArrowInvalid is a ValueError
        return False


def kept_in_storage(search: Search, run: str) -> list[str]:
    """Returns the places of a run's trials and states that exist in the storage that the user named.

    Args:
        search: what the user asked for.
        run: the id of the run.
    """
    if search.storage is None:
        return []
    places = [below(search.storage, name) for name in (trials_name(run), states_name(run))]
    return [place for place in places if is_there(place)]
