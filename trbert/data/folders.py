"""Which names mean which split, and which files of a folder are which split."""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from trbert.data.readers import SPLITS, SUFFIXES, stem_of, suffix_of
from trbert.errors import InputError
from trbert.wording import briefly_listed, listed

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The names that stand for each split; Hugging Face `datasets` takes the same. An earlier name wins over a later."""

_SHARD = re.compile(r"(?P<name>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})(-[0-9a-f]{16})?")
_PACKED = (".xlsx", ".xls", ".arrow", ".zip", ".bz2", ".xz", ".zst")
_METADATA = ("labels.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def split_of(name: str) -> str | None:
    """Returns the split that a name stands for; None where it stands for none.

    Example:
        >>> split_of("dev")
        'validation'
    """
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def chosen_splits(names: Iterable[str]) -> dict[str, str]:
    """Returns for each split the name that is taken for it: of the names that stand for it, the most exact one.

    Example:
        >>> chosen_splits(["train", "dev", "validation", "unsupervised"])
        {'train': 'train', 'validation': 'validation'}
    """
    written = {name.lower(): name for name in names}
    chosen: dict[str, str] = {}
    for split in SPLITS:
        found = [written[name] for name in SPLIT_NAMES[split] if name in written]
        if found:
            chosen[split] = found[0]
    return chosen


def unlabelled_split(names: Iterable[str]) -> dict[str, str]:
    """Returns the name that is taken for texts without labels, in place of train: one that says so, or that of train.

    Example:
        >>> unlabelled_split(["train", "test", "unsupervised"])
        {'train': 'unsupervised'}
    """
    there = list(names)
    written = {name.lower(): name for name in there}
    named = [written[name] for name in ("unsupervised", "unlabelled", "unlabeled") if name in written]
    found = [*named, *(name for split, name in chosen_splits(there).items() if split == "train")]
    return {"train": found[0]} if found else {}


def folder_files(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Returns the files of each split of a folder, and notes on how they were chosen.

    A split is a file such as `train.csv`, several such as `train-00000-of-00002.parquet`, or all files of a folder such
    as `train`. They lie in the folder, or in its folder `data`.

    Raises:
        InputError: There is no train file, a split has two files, or a part of one is missing.
    """
    places = (folder, folder / "data")
    claims = [_claims(place) for place in places]
    found = next((claim for claim in claims if "train" in chosen_splits(claim)), None)
    if found is None:
        raise _no_train(folder)
    notes: list[str] = []
    files: dict[str, list[Path]] = {}
    for split, name in chosen_splits(found).items():
        files[split] = _whole(folder, split, found[name])
        if name != split:
            notes.append(f"{files[split][0].name} is the {split} split")
    used = {file for split in files.values() for file in split}
    beside = [file for place in places for file in _data_files(place) if file not in used]
    beside = [file for file in beside if suffix_of(file) != ".txt"]  # it may be a text on the data
    if beside:
        names = [file.relative_to(folder).as_posix() for file in beside]
        one = "lies in the folder and is not used" if len(names) == 1 else "lie in the folder and are not used"
        notes.append(
            f"{briefly_listed(names)} {one}: to use a file, name all of them one by one, as "
            f"train={files['train'][0]},validation={beside[0]}"
        )
    return files, notes


def unlabelled_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Returns the files of a folder that hold texts to learn from without labels, and notes on how they were chosen.

    They lie in the folder, or in its folder `data`. Files that are named after validation or test are left out. Files
    of texts (.txt) are taken where there are no others, because they may be texts on the data.

    Raises:
        InputError: There are none.
    """
    every = [file for place in (folder, folder / "data") for file in _data_files(place)]
    there = [file for file in every if suffix_of(file)]
    tables = [file for file in there if suffix_of(file) != ".txt"] or there
    apart = [file for file in tables if split_of(_table_name(file)) in ("validation", "test")]
    files = [file for file in tables if file not in apart]
    if not files:
        raise InputError(
            f"folder {str(folder)!r} must have a file of texts without labels ({', '.join(SUFFIXES)}), and has "
            f"{briefly_listed(place.name for place in sorted(folder.iterdir())) or 'nothing'}: name the files "
            "themselves, --unlabelled a.csv,b.csv"
        )
    notes = []
    if apart:
        names = briefly_listed(file.name for file in apart)
        notes.append(f"{names} not read as unlabelled texts, because models are measured on such")
    if beside := [file for file in every if file not in tables]:
        names = briefly_listed(file.relative_to(folder).as_posix() for file in beside)
        notes.append(
            f"{names} not read as unlabelled texts: to use a file, name it, as --unlabelled {folder},{beside[0]}"
        )
    return files, notes


def _table_name(file: Path) -> str:
    """Returns the name of a file, or of the table that it is a shard of, in small letters and without its suffix."""
    stem = stem_of(file).lower()
    shard = _SHARD.fullmatch(stem)
    return shard["name"] if shard else stem


def _data_files(folder: Path) -> list[Path]:
    """Returns the files of a folder that look like data."""
    if not folder.is_dir():
        return []
    return [
        file
        for file in sorted(folder.iterdir())
        if (suffix_of(file) or file.suffix.lower() in _PACKED)
        and not file.name.startswith((".", "_", "~"))
        and file.name not in _METADATA
        and file.is_file()
    ]


def _claims(folder: Path) -> dict[str, list[Path]]:
    """Returns the files of a folder whose names stand for a split, by those names in small letters.

    All files of a folder within it stand for the split that this folder is named after.
    """
    claims: dict[str, list[Path]] = {}
    for file in _data_files(folder):
        name = _table_name(file)
        if suffix_of(file) and split_of(name):
            claims.setdefault(name, []).append(file)
    for inner in _folders(folder):
        if split_of(inner.name) and inner.name.lower() not in claims:
            parts = [file for file in _data_files(inner) if suffix_of(file) not in (None, ".txt")]
            if parts:
                claims[inner.name.lower()] = parts
    return claims


def _folders(folder: Path) -> list[Path]:
    return [place for place in sorted(folder.iterdir()) if place.is_dir()] if folder.is_dir() else []


def _whole(folder: Path, split: str, files: list[Path]) -> list[Path]:
    """Returns the file of a split, or all its parts in their order.

    Raises:
        InputError: There are two files, or a part is missing.
    """
    if not any(_SHARD.fullmatch(stem_of(file)) for file in files):
        kinds, stems = {suffix_of(file) for file in files}, {stem_of(file) for file in files}
        in_folder = split_of(files[0].parent.name) == split and len(kinds) == 1 and len(stems) == len(files)
        if len(files) == 1 or in_folder:
            return files
    parts: dict[int, Path] = {}
    counts: set[int] = set()
    for file in files:
        shard = _SHARD.fullmatch(stem_of(file))
        if shard is None or int(shard["part"]) in parts or suffix_of(file) != suffix_of(files[0]):
            raise _several(folder, split, files)
        parts[int(shard["part"])] = file
        counts.add(int(shard["parts"]))
    if len(counts) > 1:
        raise _several(folder, split, files)
    (count,) = counts
    missing = [part for part in range(count) if part not in parts]
    if missing:
        lacking = [_SHARD.fullmatch(stem_of(files[0]))["name"] + f"-{part:05}-of-{count:05}" for part in missing]  # type: ignore[index]
        raise InputError(
            f"folder {str(folder)!r} must have all {count} parts of {split}, and lacks {briefly_listed(lacking)}: "
            "copy or download the rest"
        )
    return [parts[part] for part in sorted(parts)]


def _several(folder: Path, split: str, files: list[Path]) -> InputError:
    return InputError(
        f"folder {str(folder)!r} must have one {split} file, and has {listed(file.name for file in files)}: "
        "move all but one away"
    )


def _no_train(folder: Path) -> InputError:
    there = sorted(folder.iterdir())
    inner = [place for place in there if place.is_dir() and "train" in chosen_splits(_claims(place))]
    remedy = f"pass one of its folders, such as {str(inner[0])!r}" if inner else _remedy(folder)
    return InputError(
        f"folder {str(folder)!r} must have a train file (train{', train'.join(SUFFIXES)}), and has "
        f"{briefly_listed(place.name for place in there) or 'nothing'}: {remedy}"
    )


def _remedy(folder: Path) -> str:
    """Returns what to do with a folder in which no file has the name of a split alone."""
    files = [file for file in _data_files(folder) if suffix_of(file)]
    named: dict[str, list[Path]] = {}  # the files with the name of a split among the words of their names
    for file in files:
        for split in {split_of(word) for word in re.split(r"[^a-z]+", stem_of(file).lower())} - {None}:
            named.setdefault(str(split), []).append(file)
    train = named.get("train", [])
    apart = [next((file for file in train if word in file.name.lower()), None) for word in ("label", "text")]
    if len(train) == 2 and apart[0] and apart[1] and apart[0] != apart[1]:
        return (
            "put the labels of each split beside its texts, "
            f"paste {shlex.quote(str(apart[0]))} {shlex.quote(str(apart[1]))} > train.tsv"
        )
    if len(train) == 1:
        pairs = [f"{split}={named[split][0]}" for split in SPLITS if len(named.get(split, [])) == 1]
        return f"name the files one by one, {shlex.quote(','.join(pairs))}"
    if len(files) == 1 and not named:
        return f"pass the file {str(files[0])!r}"
    texts = next((file for depth in ("*/*.txt", "*/*/*.txt") for file in sorted(folder.glob(depth))), None)
    if texts is not None:
        return (
            f"write one table with a row for each text, since files of one text, such as {str(texts)!r}, are not read"
        )
    return "name the files one by one, train=a.csv,test=b.csv"
