"""`trbert import-checkpoint`: makes a reduced model of a checkpoint that the original TR-BERT code trained."""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from trbert.disk.files import check_new_folder, copy_tree, read_plain
from trbert.errors import DamagedCheckpoint, InputError, TrbertError
from trbert.wording import briefly_listed, cell, cut, pasted, reason

HELP = "make a reduced model of a checkpoint of the original TR-BERT code"

_MOST_BYTES, _LONGEST = 10_000_000, 1000
"""The most bytes of a file of labels, and the most characters of a label."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to a parser."""
    parser.add_argument("folder", metavar="DIR", help="folder with pytorch_model.bin, config.json and vocab.txt")
    parser.add_argument("--task", help="the task for which it was trained (default: as its config.json says)")
    parser.add_argument(
        "--labels",
        metavar="NAMES",
        help="names of the outputs in their order, a,b,c, or a file with one in each line (default: as its "
        "config.json says)",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the model, new or empty")


def run(options: argparse.Namespace) -> None:
    """Writes the reduced model to its folder, whole or not at all, and prints what it is.

    Raises:
        InputError: An option is wrong, or the folder is no checkpoint of the original code that can be imported.
        ModelNotFound: There is no such folder.
        UnsupportedModel: The encoder is of no family that is known here.
        DamagedCheckpoint: Files of the checkpoint are missing or cut off, or do not fit together.
    """
    out = Path(os.path.abspath(options.out))
    check_new_folder(out, options.out)
    labels = None if options.labels is None else _labels(options.labels)
    from trbert.encoder import Encoder  # imported here, so that the help and messages about wrong options come at once
    from trbert.modeling import assemble, try_out
    from trbert.original import read_original
    from trbert.selection.reduction import Reducer
    from trbert.selection.selectors import PolicySelector
    from trbert.tasks import task_of

    found = read_original(options.folder, None if options.task is None else task_of(options.task), labels)
    own = found.model
    reducer = Reducer(encoder=Encoder(own.plain), task=found.task, points=own.points)
    selector = PolicySelector(own.policy)
    longest = min(found.tokenizer.model_max_length, reducer.encoder.max_tokens)
    try:
        model = assemble(reducer, selector, selector.default_dial, longest)
        try_out(model)
    except TrbertError:
        raise
    except Exception as error:  # for a config that was written by hand, transformers raises errors of almost any class
        raise DamagedCheckpoint(
            f"checkpoint folder {options.folder} is not whole ({cell(str(error), 200)}): copy or save it again"
        ) from error
    config: Any = model.config
    names = list(config.id2label.values())
    lines = {
        "encoder": f"{own.plain.config.model_type}, {len(reducer.encoder.layers)} layers",
        "task": found.task.name,
        "points": f"{', '.join(map(str, own.points))}: tokens are dropped before these layers",
        "outputs": briefly_listed(names) if found.named else f"{len(names)} without names",
        "dial": "0: a token goes on where its probability is one half or more, as in the original code",
    }
    _save(model, found.tokenizer, _card(options.folder, lines), out, options.out)
    unnamed = ("the outputs have no names: to name the classes, import it again with --labels a,b,c",)
    for note in (*found.notes, *(unnamed if found.task.text_classes and not found.named else ())):
        print(f"note      {note}")
    for name, text in lines.items():
        print(f"{name:<9} {text}")
    print(f"model     {options.out}\ntry it    trbert bench {pasted(options.out)}")


def _labels(given: str) -> list[str]:
    """Returns the names of a head's outputs, from a file or from the words themselves."""
    if os.path.isfile(given):
        try:
            text = read_plain(Path(os.path.realpath(given)), _MOST_BYTES).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--labels must be names, or a file of UTF-8 with one in each line, and {given} cannot be read "
                f"({reason(error)}): correct the file, or write a,b,c"
            ) from error
        labels = text.removesuffix("\n").split("\n")
    else:
        labels = given.split(",")
    labels = [label.strip() for label in labels]
    if not all(labels):
        raise InputError("--labels must name each output, and holds a blank name: write a,b,c, or a name in each line")
    if long := next((label for label in labels if len(label) > _LONGEST), None):
        raise InputError(
            f"--labels must hold names of at most {_LONGEST:,} characters, and holds one of {len(long):,}: shorten it"
        )
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise InputError(f"--labels must hold each name once, and holds {cut(twice)} twice: rename one of them")
    return labels


def _card(folder: str, lines: dict[str, str]) -> str:
    """Returns the text of the model card. It names no folder of this machine but the checkpoint's own name."""
    told = "\n".join(f"* {name}: {text}" for name, text in lines.items())
    name = cell(Path(folder).resolve().name)
    return (
        f"# Imported model\n\nMade by `trbert import-checkpoint` on {time.strftime('%Y-%m-%d')} of {name!r}, a "
        f"checkpoint of the original TR-BERT code (thunlp/TR-BERT).\n\n{told}\n\n"
        "Load it with `trbert.load(path, dial=…)`, or with transformers after `import trbert`.\n"
    )


def _save(model: Any, tokenizer: Any, card: str, out: Path, named: str) -> None:
    """Writes a model, its tokenizer, its card and their checksums to a folder, whole or not at all."""
    from trbert.checkpoint.quiet import quiet
    from trbert.disk.checksums import write_checksums

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:100]}.") as made, quiet(bars=False):
        folder = Path(made)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_checksums(folder)
        check_new_folder(out, named)  # it may have been made meanwhile
        copy_tree(folder, out)
