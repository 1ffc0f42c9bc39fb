"""`trbert bench`: how fast a model is on this machine, compared with itself padded, sorted and unpadded."""

import argparse
from pathlib import Path
from typing import Any

from trbert.disk.files import check_new_folder
from trbert.errors import InputError
from trbert.limits import MAX_SIZE, parse_size

HELP = "how fast a model is on this machine, compared with itself padded, sorted and unpadded"

FIT = {"cpu": ["float32", "bfloat16", "int8"], "cuda": ["float32", "bfloat16", "float16"]}
"""The arithmetics that a bench runs by default, by device. The first one is that of the baseline."""

WAYS = {"cpu": ["eager"], "cuda": ["eager", "graphed"]}
"""The runners that a bench times by default, by device."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to a parser."""
    parser.add_argument("model", metavar="MODEL", help="folder of a reduced model")
    parser.add_argument(
        "--family",
        metavar="MODULE:NAME",
        help="family of the model, if it is one of your own: the --family of the search that made the model",
    )
    parser.add_argument("--data", default="pages", help="as tune/search.py takes it (default: the packaged pages)")
    parser.add_argument(
        "--text-column", help="column of the texts, or several as a,b (default: those of the model's task)"
    )
    parser.add_argument("--encoding", help="encoding of the text files, such as cp1252 (default: it is found out)")
    parser.add_argument("--separator", help="what stands between two columns of csv files (default: it is found out)")
    parser.add_argument("--no-header", action="store_true", help="csv files have no row of column names")
    parser.add_argument(
        "--max-data-size",
        default=MAX_SIZE,
        metavar="SIZE",
        help="most memory of the data (default: %(default)s)",
    )
    parser.add_argument("--docs", type=int, default=128, help="the most documents to time (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 128], help="documents in a forward pass")
    parser.add_argument("--dial", type=float, nargs="+", help="dials to time the model at (default: its own)")
    parser.add_argument(
        "--dtype", nargs="+", help="float32, bfloat16, float16, int8 (default: those that suit the device)"
    )
    parser.add_argument("--against", nargs="+", default=[], metavar="MODEL", help="plain models to time beside it")
    parser.add_argument(
        "--runner",
        nargs="+",
        metavar="RUNNER",
        help="ways to run the layers: eager, compiled, graphed (default: eager, and graphed on a GPU)",
    )
    parser.add_argument(
        "--break-even",
        action="store_true",
        help="find out, too, for which batches reducing pays, and write break_even.json, which trbert.load takes",
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each variant (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of the process (default: PyTorch's own choice)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--out",
        default="bench",
        help="folder for speed.md, .json, .png and latency.json, new or empty (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Times the model, prints the report, and writes it and the latency table to a folder.

    All that can be known before the timing is checked before it.

    Raises:
        InputError: An option is out of its range, or its model, data, device or folder cannot be used.
        DamagedCheckpoint: The folder of the model does not hold a whole model with its tokenizer.
    """
    _check_options(options)
    out = Path(options.out)
    import torch  # imported here, so that the help and messages about wrong options come at once
    from transformers.utils import logging

    from trbert.bench.report import draw, table, write
    from trbert.bench.speed import bench, break_even_tables
    from trbert.checkpoint.place import Place
    from trbert.checkpoint.tokenizer import load_tokenizer, without_types
    from trbert.data.readers import Format
    from trbert.data.splits import load_inputs
    from trbert.measure.break_even import save_break_even
    from trbert.measure.latency import measure_latency
    from trbert.modeling import load
    from trbert.packed.declared import declare
    from trbert.pretrained import load_pretrained

    logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if options.device not in ("cpu", *gpus, *(["cuda"] if gpus else [])):
        raise InputError(f"--device must be a device of this machine, and is {options.device!r}: use cpu")
    if options.family is not None:
        declare(options.family)
    model = load(options.model).to(options.device)
    dials = options.dial or [model.config.dial]
    for dial in dials:
        model.selector.check_dial(dial)
    place = Place(options.model, options.model, local=True)
    tokenizer, _ = load_tokenizer(place, model.config)
    for note in without_types(place, tokenizer, model.plain.config):
        print(note, flush=True)
    try:
        inputs = load_inputs(
            options.data,
            task=model.task,
            text_column=options.text_column,
            format=Format(
                encoding=options.encoding,
                separator=options.separator,
                header=not options.no_header,
                max_bytes=parse_size(options.max_data_size),
            ),
            rows=options.docs,
        )
    except ModuleNotFoundError as error:  # trbert is installed without the extra `search`
        raise InputError(
            f"--data {options.data} needs the package {error.name}, which is not installed: pip install {error.name}, "
            "or name a csv, jsonl or parquet file"
        ) from error
    if len(inputs[0]) < options.docs:
        print(f"documents {len(inputs[0])}: the data has no more, and --docs is {options.docs}", flush=True)
    labels = list(model.config.id2label.values())
    same: dict[str, Any] = {
        "dials": dials,
        "batches": options.batch,
        "dtypes": options.dtype or FIT[model.device.type],
        "runners": options.runner or WAYS[model.device.type],
        "say": lambda line: print(line, flush=True),
    }
    report = bench(
        model,
        tokenizer,
        inputs,
        **same,
        rounds=options.rounds,
        rivals={Path(name).name: load_pretrained(name, model.task, labels, new_head=True) for name in options.against},
    )
    write(report, out)
    measure_latency(model.reducer.encoder, max(options.batch)).save(out / "latency.json")
    print(f"\n{table(report)}\nreport    {out / 'speed.md'}, {out / 'speed.json'}\nlatency   {out / 'latency.json'}")
    if options.break_even:
        save_break_even(break_even_tables(model, tokenizer, inputs, **same), out / "break_even.json")
        print(f"break-even {out / 'break_even.json'}")
    try:
        draw(report, out / "speed.png")
    except ImportError:
        print("picture   none: pip install matplotlib")
    else:
        print(f"picture   {out / 'speed.png'}")


def _check_options(options: argparse.Namespace) -> None:
    """Checks what can be known without torch: the numbers, the folder of the report, and the names of the rivals."""
    for name in ("docs", "rounds", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be 1 or more, and is {value}")
    parse_size(options.max_data_size)
    if min(options.batch) < 1:
        raise InputError(f"--batch must be 1 or more, and is {min(options.batch)}")
    check_new_folder(Path(options.out), options.out)
    for runner in options.runner or ():
        if runner not in ("eager", "compiled", "graphed"):
            raise InputError(
                f"--runner must be among eager, compiled and graphed, and holds {runner!r}: name one of them; for int8 "
                "there is --dtype int8"
            )
    names = [Path(name).name for name in options.against]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"--against must name each model once, and names {twice[0]!r} twice: the last part of a name is its name "
            "in the report, so rename a folder or time the models one after the other"
        )
