"""Checks that a family which a user declared gives, with all tokens kept, what the plain model gives."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trbert.encoder import Encoder, FinishedEncoder, Reads
from trbert.errors import UnsupportedModel
from trbert.packed.batch import PackedBatch
from trbert.packed.by_document import ByDocument
from trbert.packed.families import BUILT_IN, FAMILIES, Family
from trbert.packed.heads import plain_outputs
from trbert.packed.tokens import Tokens
from trbert.wording import first_line

LENGTHS = (7, 12, 3, 7, 1024)
"""The tokens of the documents of the row that is tried: of other lengths, and two of the same one. The last one is as
long as the model allows, up to this length: a layer that sees only near tokens differs from others on it alone."""

TOLERANCE = 2e-5
"""The most that two states may differ, as a share of their norm. Rounding in float32 makes a tenth of it."""

Found = TypeVar("Found")

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
"""What the config of every encoder says. A class may map its own names to these ones (`attribute_map`)."""
_EMBEDDINGS = (
    "correct embeddings, projection, embeds_positions, embeds_segments and first_position_after_padding of the family"
)
_PACKED = (
    "its layers must take attention_mask=None and other keyword arguments, attend through transformers' "
    "AttentionInterface, and return the states alone, so name the classes of layers that read other tokens in another "
    "way in by_document of the family"
)
_ALONE = "a layer in by_document must take the states and attention_mask=None, and return the states alone"
_ROTARY = "correct rotary and rotary_by_layer_type of the family"
_END = "correct final_norm, pooler and pooler_activation of the family"


def check_declared(model: Any, reads: Reads, name: str) -> None:
    """Checks a registered family on a model of it, part by part, on a row of a few random tokens in float32.

    The plain model reads the documents of the row one after the other. A family that trbert describes itself is not
    checked.

    Args:
        model: the plain Hugging Face model, in evaluation mode. Its attention is switched to `trbert_packed`, in place.
        reads: what its head reads.
        name: the model, as the user calls it.

    Raises:
        UnsupportedModel: A part is not where the family says, cannot run, or gives other states than the plain model.
    """
    config = model.config
    if config.model_type in BUILT_IN or config.model_type not in FAMILIES:
        return
    trial = _Trial(model, FAMILIES[config.model_type], name)
    trial.check_config()
    trial.check_places()
    with torch.no_grad():
        trial.check_run(reads)


@dataclass
class _Heard:
    """The plain model's layers, and what they read and gave for one document, in the order in which they ran."""

    ran: list[nn.Module] = field(default_factory=list)
    entered: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)


class _Trial:
    """A family on trial.

    Args:
        model: the plain Hugging Face model.
        family: the family that is to describe it.
        name: the model, as the user calls it.
    """

    def __init__(self, model: Any, family: Family, name: str) -> None:
        self.model, self.family, self.name = model, family, name
        self.base = model.base_model

    def refused(self, why: str, remedy: str) -> UnsupportedModel:
        """Returns the error that says what does not fit."""
        return UnsupportedModel(
            f"the family registered for {self.model.config.model_type!r} must describe model {self.name}, and {why}: "
            f"{remedy}"
        )

    def attempt(self, part: str, remedy: str, act: Callable[[], Found]) -> Found:
        """Returns what a function returns; whatever error it raises becomes the one that names the part."""
        try:
            return act()
        except Exception as error:  # code of the user's model, which may raise any error
            raise self.refused(
                f"its {part} cannot run ({type(error).__name__}: {first_line(error)})", remedy
            ) from error

    def same(self, part: str, remedy: str, ours: Tensor, plain: Tensor) -> None:
        """Checks that a part gives what the plain model gives."""
        if ours.shape != plain.shape:
            raise self.refused(
                f"its {part} gives the shape {list(ours.shape)} where the plain model has {list(plain.shape)}", remedy
            )
        distance = float((ours - plain).norm() / plain.norm().clamp(min=1e-12))
        if not distance <= TOLERANCE:
            raise self.refused(
                f"its {part} gives other numbers than the plain model (they differ by {distance:.1e} of their norm)",
                remedy,
            )

    def check_config(self) -> None:
        """Checks that the config has the sizes that every encoder's has."""
        if missing := [name for name in _SIZES if getattr(self.model.config, name, None) is None]:
            raise self.refused(
                f"its config has no {missing[0]}", "give the config this entry, or an attribute_map from its own name"
            )

    def check_places(self) -> None:
        """Checks that each part is where the family says."""
        family, kind = self.family, type(self.base).__name__
        places = {
            "layers": None if callable(family.layers) else family.layers,
            "embeddings": family.embeddings,
            "final_norm": family.final_norm,
            "rotary": family.rotary,
            "pooler": family.pooler,
            "pooler_activation": family.pooler_activation,
        }
        for name, path in places.items():
            node = self.base
            for step in path.split(".") if path else ():
                if not hasattr(node, step):
                    there = ", ".join(each for each, _ in node.named_children()) or "no parts"
                    raise self.refused(
                        f"its {name} must be at {path!r}, and {type(node).__name__} has no {step!r} (it has {there})",
                        f"write the attribute path that begins in {kind}",
                    )
                node = getattr(node, step)
        layers = self.attempt("list of layers", "correct layers of the family", lambda: family.layer_list(self.base))
        wanted = self.model.config.num_hidden_layers
        if len(layers) != wanted or not all(isinstance(layer, nn.Module) for layer in layers):
            raise self.refused(
                f"layers are {len(layers)} where num_hidden_layers is {wanted}", "list them in the order they run in"
            )
        kinds = {type(layer).__name__ for layer in layers}
        if unknown := [each for each in family.by_document if each not in kinds]:
            raise self.refused(
                f"by_document names {unknown[0]!r}, of which it has no layer",
                f"its layers are of the classes {', '.join(sorted(kinds))}",
            )

    def check_run(self, reads: Reads) -> None:
        """Runs the parts one after the other, each on what the plain model gave to it."""
        encoder = self.attempt("attention", _PACKED, lambda: Encoder(self.model))
        tokens = self._tokens(encoder)
        plain = [
            self.attempt("plain model", "correct its code", partial(self._plain, tokens, i)) for i in range(len(tokens))
        ]
        heard = [each for each, _ in plain]
        batch = self.attempt("embeddings", _EMBEDDINGS, lambda: encoder.embed(tokens))
        self.attempt("rotary", _ROTARY, lambda: encoder.position_tables(batch))
        self._check_order(heard)
        self.same("embeddings", _EMBEDDINGS, batch.hidden, torch.cat([each.entered[0] for each in heard]))
        for index, layer in enumerate(encoder.layers):
            own = layer.layer if isinstance(layer, ByDocument) else layer
            part, remedy = f"layer {index} ({type(own).__name__})", _PACKED if own is layer else _ALONE
            entered = batch.with_hidden(torch.cat([each.entered[index] for each in heard]))
            after = self.attempt(part, remedy, partial(encoder.run_layers, entered, index, index + 1))
            self.same(part, remedy, after.hidden, torch.cat([each.left[index] for each in heard]))
        finished = batch.with_hidden(torch.cat([each.left[-1] for each in heard]))
        for each, outputs in plain:
            self._check_end(each.left[-1], outputs)
        self._check_head(encoder, tokens, finished, reads)

    def _check_order(self, heard: list[_Heard]) -> None:
        remedy = "list its layers in the order they run in; nothing may be computed between two of them"
        listed = self.family.layer_list(self.base)
        for each in heard:
            if len(each.ran) != len(listed) or any(a is not b for a, b in zip(each.ran, listed, strict=True)):
                raise self.refused("it runs other layers, or in another order, than the family lists", remedy)
            for index, (before, after) in enumerate(zip(each.left, each.entered[1:], strict=False)):
                self.same(f"step from layer {index} to the next one", remedy, before, after)

    def _check_end(self, last: Tensor, outputs: Any) -> None:
        ours = self.attempt("end", _END, lambda: FinishedEncoder(self.family, self.base)(inputs_embeds=last[None]))
        self.same("final_norm", _END, ours.last_hidden_state[0], outputs.last_hidden_state[0])
        pooled = getattr(outputs, "pooler_output", None)
        if pooled is not None:
            own = last.new_zeros(0) if ours.pooler_output is None else ours.pooler_output
            self.same("pooler", _END, own, pooled)

    def _check_head(self, encoder: Encoder, tokens: Tokens, finished: PackedBatch, reads: Reads) -> None:
        remedy = (
            "its head must be a class of transformers, or like one: it calls the encoder as "
            f"self.{self.model.base_model_prefix}(inputs_embeds=..., attention_mask=..., return_dict=True)"
        )
        ours = self.attempt("head", remedy, lambda: encoder.read(finished, reads))
        plain = [plain_outputs(self.model, self._inputs(tokens, number)) for number in range(len(tokens))]
        rows = torch.cat(plain) if reads == "documents" else torch.cat([each[0] for each in plain])
        self.same("head", remedy, ours, rows)

    def _tokens(self, encoder: Encoder) -> Tokens:
        generator = torch.Generator().manual_seed(0)
        rows = self.model.get_input_embeddings().num_embeddings
        lengths = [min(length, encoder.max_tokens) for length in LENGTHS]

        def draw(most: int) -> list[list[int]]:
            return [torch.randint(most, (length,), generator=generator).tolist() for length in lengths]

        return Tokens.from_lists(draw(rows), draw(2) if self._reads_types() else None).to(encoder.device)

    def _reads_types(self) -> bool:
        taken = "token_type_ids" in inspect.signature(self.base.forward).parameters
        return taken and getattr(self.model.config, "type_vocab_size", 1) > 1

    def _inputs(self, tokens: Tokens, number: int) -> dict[str, Tensor]:
        one = tokens.take(torch.tensor([number], device=tokens.offsets.device))
        inputs = {"input_ids": one.input_ids[None], "attention_mask": torch.ones_like(one.input_ids)[None]}
        return inputs if one.token_type_ids is None else {**inputs, "token_type_ids": one.token_type_ids[None]}

    def _plain(self, tokens: Tokens, number: int) -> tuple[_Heard, Any]:
        heard = _Heard()
        with _listening(self.family.layer_list(self.base), heard):
            return heard, self.base(**self._inputs(tokens, number))


@contextmanager
def _listening(layers: list[nn.Module], heard: _Heard) -> Iterator[None]:
    """Notes what the layers read and give, while the plain model runs on one document."""

    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        heard.ran.append(layer)
        heard.entered.append(next(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor))[0].clone())

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        heard.left.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    hooks = [
        hook
        for layer in dict.fromkeys(layers)
        for hook in (layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
