"""`trbert bench`: how fast a model is on this machine, compared with itself padded, sorted and unpadded."""

import argparse
from pathlib import Path

from trbert.errors import InputError

HELP = "how fast a model is on this machine, compared with itself padded, sorted and unpadded"

FIT = {"cpu": ["float32", "bfloat16", "int8"], "cuda": ["float32", "bfloat16", "float16"]}
"""The arithmetics that a bench runs by default, by device. The first one is that of the baseline."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to a parser."""
    parser.add_argument("model", metavar="MODEL", help="folder of a reduced model")
    parser.add_argument("--data", default="pages", help="as tune/search.py takes it (default: the packaged pages)")
    parser.add_argument(
        "--text-column", default="text", help="column of the texts, or of pairs a,b (default: %(default)s)"
    )
    parser.add_argument("--label-column", default="label", help="column of the labels (default: %(default)s)")
    parser.add_argument("--docs", type=int, default=128, help="test documents to time (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 128], help="documents in a forward pass")
    parser.add_argument("--dial", type=float, nargs="+", help="dials to time the model at (default: its own)")
    parser.add_argument(
        "--dtype", nargs="+", help="float32, bfloat16, float16, int8 (default: those that suit the device)"
    )
    parser.add_argument("--against", nargs="+", default=[], metavar="MODEL", help="plain models to time beside it")
    parser.add_argument("--compile", action="store_true", help="time the unpadded and the reduced model compiled, too")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each variant (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of the process (default: PyTorch's own choice)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--out", default="bench", help="folder for speed.md, .json, .png, latency.json")


def run(options: argparse.Namespace) -> None:
    """Times the model, prints the report, and writes it and the latency table to a folder.

    Raises:
        InputError: An option is out of its range, or its model, data or device cannot be used.
    """
    for name in ("docs", "rounds", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be 1 or more, and is {value}")
    if min(options.batch) < 1:
        raise InputError(f"--batch must be 1 or more, and is {min(options.batch)}")
    import torch  # imported here, so that the help and messages about wrong options come at once
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from trbert.bench.report import draw, table, write
    from trbert.bench.speed import bench
    from trbert.data.splits import load_splits
    from trbert.measure.latency import measure_latency
    from trbert.modeling import load
    from trbert.pretrained import load_pretrained

    logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device must be a device of this machine, and is {options.device!r}: use cpu")
    model = load(options.model).to(options.device)
    rows = load_splits(
        options.data,
        task=model.task,
        text_column=options.text_column,
        label_column=options.label_column,
        test_rows=options.docs,
    )
    labels = list(model.config.id2label.values())
    report = bench(
        model,
        AutoTokenizer.from_pretrained(options.model, local_files_only=True),
        rows.test.inputs,
        dials=options.dial or [model.config.dial],
        batches=options.batch,
        dtypes=options.dtype or FIT[model.device.type],
        rounds=options.rounds,
        say=lambda line: print(line, flush=True),
        compiles=options.compile,
        rivals={Path(name).name: load_pretrained(name, model.task, labels) for name in options.against},
    )
    out = Path(options.out)
    write(report, out)
    measure_latency(model.reducer.encoder, max(options.batch)).save(out / "latency.json")
    print(f"\n{table(report)}\nreport    {out / 'speed.md'}, {out / 'speed.json'}\nlatency   {out / 'latency.json'}")
    try:
        draw(report, out / "speed.png")
    except ImportError:
        print("picture   none: pip install matplotlib")
    else:
        print(f"picture   {out / 'speed.png'}")
