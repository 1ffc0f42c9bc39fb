"""Loads the tokenizer of a plain model, and makes it fit the encoder."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from trbert.checkpoint.place import Place
from trbert.errors import DamagedCheckpoint, InputError, TrbertError, UnsupportedModel
from trbert.packed.families import family_of
from trbert.tasks.panics import panics_told
from trbert.wording import first_line, listed

SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "sentencepiece.model", "tokenizer.model")
"""Files of sentencepiece, as the families call them."""

TOKENIZER_SIZE = 200_000_000
"""The most bytes of tokenizer.json. That of a vocabulary of 250,000 tokens has 17 million."""


def load_tokenizer(place: Place, config: Any) -> tuple[Any, tuple[str, ...]]:
    """Returns a model's tokenizer as it was saved, and notes on how it was read.

    Args:
        place: where the model is.
        config: the configuration of the model.

    Raises:
        DamagedCheckpoint: There is no tokenizer, or its files are cut off.
        UnsupportedModel: It needs code of its own, or a package that is not installed.
        ModelNotFound: It could not be fetched from the hub.
    """
    said, notes = check_json(place), []
    options: dict[str, Any] = {}
    if "do_lower_case" not in said and not place.file("tokenizer.json") and _has_capitals(place.file("vocab.txt")):
        options["do_lower_case"] = False
        notes.append(
            f"tokenizer of model {place.name}: texts are not made lower-case, because its vocab.txt has capital "
            "letters, and no other file says what to do"
        )
    try:
        with panics_told():
            tokenizer: Any = AutoTokenizer.from_pretrained(
                place.source, config=config, local_files_only=place.unasked, trust_remote_code=False, **options
            )
    except Exception as error:  # as the tokenizers library raises it
        raise _unread(place, said, error) from error
    names = sorted(tokenizer.vocab_files_names.values())
    if place.local and not any(place.file(name) for name in names):
        # In this case transformers makes a tokenizer that knows the special tokens only, without an error.
        raise DamagedCheckpoint(
            f"model folder {place.source} must hold a tokenizer ({' or '.join(names)}), and does not: save it there"
        )
    return tokenizer, tuple(notes)


def check_json(place: Place) -> dict[str, Any]:
    """Checks the JSON files from which a tokenizer is made, beside tokenizer.json. Returns tokenizer_config.json.

    Raises:
        DamagedCheckpoint: One is no JSON object, breaks a limit, or names files elsewhere.
    """
    for name in ("special_tokens_map.json", "added_tokens.json"):
        place.json(name)
    said = place.json("tokenizer_config.json")
    if said.get("fast_tokenizer_files"):
        raise DamagedCheckpoint(
            f"fast_tokenizer_files in tokenizer_config.json of model {place.name} must be unset, because the tokenizer "
            "is in tokenizer.json: remove it"
        )
    path = place.file("tokenizer.json")
    if path is not None and path.stat().st_size > TOKENIZER_SIZE:
        raise DamagedCheckpoint(
            f"tokenizer.json of model {place.name} must have at most {TOKENIZER_SIZE // 1_000_000} MB, and has "
            f"{path.stat().st_size // 1_000_000}: copy or save it again"
        )
    return said


def fit_tokenizer(place: Place, tokenizer: Any, model: Any) -> tuple[str, ...]:
    """Makes a tokenizer fit an encoder, in place, and returns notes on it.

    It gets the length of the encoder where it has none or a larger one, so that a saved copy truncates as it should.
    It gives no token types where the encoder knows one alone, as RoBERTa does.
    It gets a padding token where it has none, since batches are padded when a saved model is used.

    Args:
        place: where the model is.
        tokenizer: the tokenizer of the model.
        model: the model. The padding id of its config becomes that of the tokenizer where no position depends on it.

    Raises:
        InputError: The tokenizer has no padding token, and no token that could be one.
        DamagedCheckpoint: The tokenizer cannot read a text.
    """
    try:
        with panics_told():
            return _fit(place, tokenizer, model)
    except TrbertError:
        raise
    except Exception as error:  # as the tokenizers library raises it
        raise place.damaged(error) from error


def _fit(place: Place, tokenizer: Any, model: Any) -> tuple[str, ...]:
    config, notes = model.config, []
    rows = model.get_input_embeddings().num_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, family_of(config).max_tokens(config))
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = _padding(place, tokenizer, config, rows)
        notes.append(
            f"tokenizer of model {place.name}: it has no padding token of which the encoder has an embedding, so "
            f"{tokenizer.pad_token!r} is taken for it"
        )
    if tokenizer.pad_token_id != config.pad_token_id:
        if not family_of(config).first_position_after_padding:
            config.pad_token_id = tokenizer.pad_token_id
        else:
            notes.append(
                f"tokenizer of model {place.name}: it pads with {tokenizer.pad_token!r} (id {tokenizer.pad_token_id}), "
                f"and pad_token_id in config.json is {config.pad_token_id}: the positions are counted from "
                "config.json's, as transformers does"
            )
    read = tokenizer("a", return_special_tokens_mask=True)
    around = [token for token, special in zip(read["input_ids"], read["special_tokens_mask"], strict=True) if special]
    if read["special_tokens_mask"][:1] != [1]:
        notes.append(
            f"tokenizer of model {place.name}: it puts no special token before a text, so that the first token of its "
            "first word is never dropped, and is what a head that reads the first token reads"
        )
    notes += without_types(place, tokenizer, config)
    beyond = _named(tokenizer, rows)
    if lost := [token for token in tokenizer.convert_ids_to_tokens(around) if token in beyond]:
        raise DamagedCheckpoint(
            f"the tokens that the tokenizer of model {place.name} puts around each text must have embeddings, and "
            f"{lost[0]!r} has none, because the encoder has {rows} of them: copy the vocabulary that belongs to the "
            "model, or call model.resize_token_embeddings(len(tokenizer)), and save the model again"
        )
    if beyond:
        notes.append(
            f"tokenizer of model {place.name}: it has {len(tokenizer)} tokens, and the encoder has embeddings of "
            f"{rows}: texts with {listed(beyond[:3])}{' and others' if len(beyond) > 3 else ''} cannot be read"
        )
    return tuple(notes)


def without_types(place: Place, tokenizer: Any, config: Any) -> tuple[str, ...]:
    """Makes a tokenizer give no token types, in place, where its encoder knows one alone. Returns a note on it.

    Such an encoder has one row in its table of types, as RoBERTa has, and the plain model would fail at type 1. A copy
    that is saved later gives none, either.

    Args:
        place: where the model is.
        tokenizer: the tokenizer of the model.
        config: the configuration of the encoder.
    """
    types = tokenizer("a", "a").get("token_type_ids", [0])
    if max(types) == 0 or family_of(config).num_segments(config) > 1:
        return ()
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return (
        f"tokenizer of model {place.name}: it gives the second text of a pair the type {max(types)}, and the encoder "
        "knows type 0 alone, so the types are left out, and all tokens have type 0",
    )


def check_vocabulary(model: Any, tokenizer: Any, used_ids: Tensor | Iterable[int]) -> None:
    """Checks that the encoder has an embedding of every token that the data has.

    Args:
        model: the Hugging Face model.
        tokenizer: its tokenizer, which names the tokens in the message.
        used_ids: the token ids of the data, in any order, as often as they come.

    Raises:
        InputError: It has none of one of them.
    """
    rows = model.get_input_embeddings().num_embeddings
    used = used_ids if isinstance(used_ids, Tensor) else torch.tensor(list(used_ids), dtype=torch.long)
    beyond = used[used >= rows].unique().tolist()
    if beyond:
        tokens = listed(tokenizer.convert_ids_to_tokens(beyond[:3])) + (" and others" if len(beyond) > 3 else "")
        raise InputError(
            f"the tokens of the data must be among the {rows} of which the encoder has embeddings, and {tokens} "
            f"{'is' if len(beyond) == 1 else 'are'} not: the tokenizer has {len(tokenizer)}, so call "
            "model.resize_token_embeddings(len(tokenizer)), and save the model and the tokenizer to one folder"
        )


def _named(tokenizer: Any, first: int) -> list[str]:
    """Returns the tokens with this id or a higher one, in the order of their ids."""
    if len(tokenizer) <= first:
        return []
    found = [(index, token) for token, index in tokenizer.get_vocab().items() if index >= first]
    return [token for _, token in sorted(found)]


def _padding(place: Place, tokenizer: Any, config: Any, rows: int) -> str:
    """Returns the token that can pad: that of the config's id, or else a special one."""
    known = {token: index for token, index in tokenizer.get_vocab().items() if index < rows}
    own = [token for token, index in known.items() if index == config.pad_token_id]
    special = (tokenizer.eos_token, tokenizer.sep_token, tokenizer.unk_token)
    for token in (*own, *(each for each in special if each in known)):
        return str(token)
    raise InputError(
        f"the tokenizer of model {place.name} must have a padding token, and has none: set tokenizer.pad_token, and "
        "save the tokenizer beside the model"
    )


def _unread(place: Place, said: dict[str, Any], error: Exception) -> Exception:
    kind = said.get("tokenizer_class")
    if not place.file("tokenizer.json"):
        pieces = next((name for name in SENTENCEPIECE if place.file(name)), None)
        lacking = [name for name in ("sentencepiece", "google.protobuf") if not _installed(name)]
        if pieces and lacking:
            packages = " and ".join(name.removeprefix("google.") for name in lacking)
            return UnsupportedModel(
                f"model {place.name} has its tokenizer in {pieces} alone, which cannot be read without {packages}: "
                f"pip install {packages.replace(' and ', ' ')}, or put the model's tokenizer.json beside it"
            )
    if said.get("auto_map"):
        return UnsupportedModel(
            f"the tokenizer of model {place.name} ({kind}) must be one of transformers, and is Python code of its own "
            "(auto_map in tokenizer_config.json), which trbert never runs: save a tokenizer.json of it beside the model"
        )
    if isinstance(error, ImportError):
        return UnsupportedModel(
            f"the tokenizer of model {place.name} ({kind}) needs a package that is not installed: {first_line(error)}"
        )
    if place.local and not holds_tokenizer(Path(place.source)):
        return DamagedCheckpoint(
            f"model folder {place.source} must hold a tokenizer (tokenizer.json or vocab.txt), and does not: save it "
            "there"
        )
    return place.failed(error)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def holds_tokenizer(folder: Path) -> bool:
    """Returns whether a folder holds a file from which a tokenizer can be made."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json", *SENTENCEPIECE))


def _has_capitals(vocabulary: Path | None) -> bool:
    """Returns whether a vocab.txt has words with capital letters, beside special tokens such as [CLS]."""
    if vocabulary is None:
        return False
    words = vocabulary.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(word != word.lower() for word in words if not (word.startswith("[") and word.endswith("]")))
