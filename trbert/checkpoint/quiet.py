"""Keeps transformers quiet where trbert says itself what was found."""

import contextlib
import os
from collections.abc import Iterator

from transformers.utils import logging


@contextlib.contextmanager
def quiet(bars: bool = True) -> Iterator[None]:
    """Shows no warnings of transformers within it, and lets it ask nobody on the hub to convert weights.

    Args:
        bars: whether progress bars are shown as before.
    """
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    asked = os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
    logging.set_verbosity_error()
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    if shown and not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        os.environ.pop("DISABLE_SAFETENSORS_CONVERSION")
        if asked is not None:
            os.environ["DISABLE_SAFETENSORS_CONVERSION"] = asked
        if shown and not bars:
            logging.enable_progress_bar()
