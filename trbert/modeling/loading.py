"""Loads a saved model, and says what is wrong with one that cannot be loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trbert.checkpoint.contract import check_declared
from trbert.checkpoint.headers import shards_of
from trbert.checkpoint.json_text import not_json
from trbert.checkpoint.place import check_file, check_is_whole_model
from trbert.checkpoint.quiet import quiet
from trbert.checkpoint.sizes import Held, check_numbers, check_stacks, misfits, without_memory
from trbert.disk.checksums import check_checksums
from trbert.encoder import Encoder
from trbert.errors import DamagedCheckpoint, ModelNotFound, TrbertError
from trbert.measure.break_even import Conditions, fitting_tables, load_break_even
from trbert.modeling.config import TrbertConfig
from trbert.modeling.config_file import check_config
from trbert.modeling.heads import model_class
from trbert.modeling.model import TrbertModel
from trbert.packed.heads import plain_outputs
from trbert.runners import runner_of
from trbert.selection.reduction import check_points
from trbert.tasks import Task
from trbert.wording import cell


def load(
    path: str | Path,
    dial: float | None = None,
    runner: str = "eager",
    verify: bool = False,
    break_even: str | Path | None = None,
) -> TrbertModel:
    """Returns a saved reduced model, ready to use.

    Args:
        path: the folder of the model, with `config.json` and `model.safetensors`. Where the model was saved in shards,
            it holds them and `model.safetensors.index.json` instead.
        dial: the dial to use; None uses the saved one.
        runner: the way to run the layers. "eager" calls them one after the other. "compiled" runs them through
            `torch.compile` where no gradient is wanted. The first use takes seconds to compile, and on a CPU it needs a
            C++ compiler. "graphed" captures the stages of a pass, as CUDA graphs on a GPU, and repeats them. "int8"
            runs the matrix products in int8, on a CPU only. Such a model can neither learn nor be saved.
        verify: whether to compare all files with the checksums in `SHA256SUMS`, which a search writes beside a model.
            This reads every file once more. It tells damage, such as from a copy or a disk; it does not tell tampering,
            because whoever changes a model can write its checksums anew.
        break_even: the `break_even.json` that `trbert bench --break-even` wrote on this machine. The model then keeps
            all tokens of a batch that is too small for reducing to pay. So a document's answer depends on the size of
            its batch. None reduces every batch.

    Raises:
        InputError: The folder holds another kind of model, there is no such runner, or the runner cannot run here. Or
            `break_even` is no such file, or was measured elsewhere or with another model or runner.
        UnsupportedModel: A family that was registered does not fit the model.
        ModelNotFound: There is no such folder.
        DamagedCheckpoint: The files of the model are missing or cut off, or do not fit together. Or `verify` is set,
            and they are not those that `SHA256SUMS` lists, or there is no such list.
    """
    way = runner_of(runner)
    tables = () if break_even is None else load_break_even(break_even)
    folder = Path(path)
    if not folder.is_dir():
        raise ModelNotFound(f"path must be a folder with a saved model, and is {str(path)!r}, which does not exist")
    if verify:
        check_checksums(folder)
    try:
        model = _load(folder, dial)
    except TrbertError:
        raise
    except OSError as error:  # a file or the folder may not be read
        raise _not_whole(folder, error) from error
    model.run_with(way)
    if tables:
        model.break_even = fitting_tables(tables, Conditions.now(model.reducer, model.selector, model.config.dial))
    return model


def _load(folder: Path, dial: float | None) -> TrbertModel:
    task, entries = check_config(folder)
    weights, files = _check_weights(folder)
    config = _check_sizes(folder, task, entries, weights, files)
    try:
        with quiet():  # what transformers would report is refused below
            loaded: Any = model_class(task).from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # for a config that was written by hand, transformers raises errors of almost any class
        raise _not_whole(folder, error) from error
    model: TrbertModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    wrong = sorted(
        {*report["missing_keys"], *report["unexpected_keys"], *(key for key, *_ in report["mismatched_keys"])}
    )
    if wrong:
        raise _misfit(weights, wrong)
    model.config.dial = model.config.dial if dial is None else dial
    model.selector.check_dial(model.config.dial)
    check_declared(model.eval().plain, task.reads, str(folder))
    try:
        try_out(model)
    except TrbertError:
        raise
    except Exception as error:  # for a config that was written by hand, as above
        raise _not_whole(folder, error) from error
    return model


def try_out(model: TrbertModel) -> None:
    """Runs a model on a few tokens, to find what is wrong with values of its config that are used here alone.

    Raises:
        Exception: It cannot run.
    """
    encoder = Encoder(model.plain)
    rows = model.plain.get_input_embeddings().num_embeddings
    ids = torch.arange(min(4, rows, encoder.max_tokens), device=encoder.device)[None]
    runs: Any = model.plain if model.selector.needs == "saliency" else model  # that rule needs labels to run
    with torch.no_grad():
        outputs = plain_outputs(runs, {"input_ids": ids})
    if not outputs.isfinite().all():
        raise ValueError("its outputs are no finite numbers")


def _check_weights(folder: Path) -> tuple[Path, tuple[Path, ...]]:
    """Checks that a folder holds the file of the weights, or all of its shards.

    Returns the file, or the index of the shards, and all the files that hold weights.
    """
    check_is_whole_model(folder)
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        check_file(whole)
        return whole, (whole,)
    try:
        shards = tuple(folder / name for name in shards_of(index))
    except ValueError as error:
        raise not_json(folder, error) from error
    for shard in shards:
        check_file(shard)
    return index, shards


def _check_sizes(
    folder: Path, task: Task, entries: dict[str, Any], weights: Path, files: tuple[Path, ...]
) -> TrbertConfig:
    """Checks that the weights have the sizes that the config declares, before memory is taken. Returns the config."""
    try:
        held = Held.by(files)
        config = TrbertConfig.from_dict(entries)
        check_points(config.points, config.encoder_config().num_hidden_layers)
        check_stacks(config.encoder, held)
        model = without_memory(model_class(task), config)
        found = list(misfits(model, held))
        if not found:
            check_numbers(model, held)
    except Exception as error:  # for a config that was written by hand, transformers raises errors of almost any class
        raise _not_whole(folder, error) from error
    if why := next((each.why for each in found if each.why), None):
        raise _not_whole(folder, ValueError(why))
    if found:
        raise _misfit(weights, sorted(each.name for each in found))
    return config


def _not_whole(folder: Path, error: Exception) -> DamagedCheckpoint:
    reason = " ".join(str(error).split())
    if isinstance(error, KeyError):
        reason = f"transformers does not know {reason}, which its config.json names"
    return DamagedCheckpoint(f"{folder} does not hold a whole model ({reason}): copy or save it again")


def _misfit(weights: Path, names: Sequence[str]) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"{weights} does not fit config.json: {', '.join(map(cell, names[:3]))}"
        f"{' and more' if len(names) > 3 else ''}: copy or save it again"
    )
