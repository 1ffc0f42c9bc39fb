"""Writes the page of a benchmark: a heading, how it was measured, a table; and the same figures as JSON."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trbert.disk.files import write_whole
from trbert.measure.timing import machine


def write_report(
    place: Path, title: str, command: str, device: torch.device, how: str, rows: Sequence[str], found: Any
) -> None:
    """Writes `place`.md and `place`.json; the first of the rows is the header of the table."""
    text = [
        f"# {title}",
        "",
        f"`{command}`, {datetime.date.today()}.",
        f"Machine: {machine(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}.",
        "",
        how.rstrip(),
        "",
        rows[0],
        "|" + "---|" * (rows[0].count("|") - 1),
        *rows[1:],
        "",
    ]
    write_whole(place.with_suffix(".md"), "\n".join(text).encode())
    write_whole(place.with_suffix(".json"), json.dumps(found, indent=1).encode())
