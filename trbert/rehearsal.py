"""Rehearses the end of a search: saves a model and its tokenizer, and loads both again."""

import tempfile
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from trbert.checkpoint.quiet import quiet
from trbert.encoder import Encoder
from trbert.errors import DamagedCheckpoint
from trbert.modeling import assemble, try_out
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import selector_of
from trbert.tasks import Task
from trbert.wording import first_line

PROBE = "a rehearsal of texts, 1 2 3"


def rehearse(model: Any, tokenizer: Any, task: Task) -> None:
    """Runs a model on a few tokens; saves it and a reduced one without their weights, and loads both again.

    What fails here would fail after the search, when its time is spent. The weights are left out, so that it takes
    a fraction of a second. With a vocabulary of 250,000 tokens it takes two seconds, to read the tokenizer twice.

    Args:
        model: the plain Hugging Face model. Its attention is switched to `trbert_packed`, in place.
        tokenizer: its tokenizer.
        task: the task of the model.

    Raises:
        DamagedCheckpoint: The model cannot run. Or it or the tokenizer cannot be saved, or is another one when it is
            loaded again.
    """
    encoder = Encoder(model)
    reducer = Reducer(encoder=encoder, task=task, points=(0,))
    selector = selector_of("first", Policy(model.config.hidden_size, 0))
    reduced = assemble(reducer, selector, selector.keep_all, encoder.max_tokens)
    try:
        try_out(reduced)
    except Exception as error:  # whatever it is, the search would fail by it
        raise DamagedCheckpoint(
            f"the model must run on a few tokens, and does not ({type(error).__name__}: {first_line(error)}): correct "
            "the model's config.json"
        ) from error
    for each in (model, reduced):
        with tempfile.TemporaryDirectory() as folder:
            try:
                with quiet(bars=False):
                    changed = _saved_and_loaded(each, tokenizer, folder)
            except Exception as error:  # whatever it is, the end of a search would fail by it
                raise DamagedCheckpoint(
                    f"a saved copy of the model must load again, and does not ({type(error).__name__}: "
                    f"{first_line(error)}): correct the model's config.json or its tokenizer"
                ) from error
        if changed:
            raise DamagedCheckpoint(
                f"a saved copy of the model must be as the model is, and has {changed}: correct the model's "
                "config.json or its tokenizer"
            )


def _saved_and_loaded(model: Any, tokenizer: Any, folder: str) -> str | None:
    """Returns what is different after a model without its weights and a tokenizer were saved and loaded again."""
    model.save_pretrained(folder, state_dict={})
    tokenizer.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        copy = type(model)(config)
    again = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    own, others = model.state_dict(), copy.state_dict()
    for name in sorted(own.keys() | others.keys()):
        if name not in own or name not in others or own[name].shape != others[name].shape:
            return f"another weight {name!r}"
    if config.id2label != model.config.id2label:
        return "other labels"
    for name in ("pad_token_id", "model_max_length"):
        if getattr(again, name) != getattr(tokenizer, name):
            return f"a tokenizer with another {name}"
    return None if again(PROBE)["input_ids"] == tokenizer(PROBE)["input_ids"] else "a tokenizer that reads other tokens"
