"""How a benchmark's table is written down: one heading, how it was measured, the rows, and the same as JSON."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trbert.files import write_whole
from trbert.measure.timing import machine


def write_report(
    place: Path, title: str, command: str, device: torch.device, how: str, rows: Sequence[str], found: Any
) -> None:
    """Writes `place`.md, its first row the header, and `place`.json."""
    text = [
        f"# {title}",
        "",
        f"`{command}`, {datetime.date.today()}. {machine(device)}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {how}",
        "",
        rows[0],
        "|" + "---|" * (rows[0].count("|") - 1),
        *rows[1:],
        "",
    ]
    write_whole(place.with_suffix(".md"), "\n".join(text).encode())
    write_whole(place.with_suffix(".json"), json.dumps(found, indent=1).encode())
