"""A Hugging Face classifier in stages: embed a packed row, run its own layers i..j on it, run its own head."""

import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from trbert.errors import InputError
from trbert.packed.attention import PACKED_ATTENTION
from trbert.packed.batch import PackedBatch, split_documents, start_batch
from trbert.packed.families import Family, family_of
from trbert.packed.tokens import Tokens
from trbert.selection.fusion import Fusion
from trbert.shapes import Logits, TokenFloat

_BLOCK_BYTES = 12 * 2**20
"""Most bytes of one state on a CPU. Measured on two cores, float32, documents of 512 tokens, against the padded model:
MiniLM, batch 8, run whole .99x with 24,500 page faults, in rows of 4,096 tokens 1.01x with as many, of 2,048 (this
size) 1.07x with none, of 1,024 1.02x; batch 32 1.00x, 1.11x, 1.14x, 1.10x; BERT-base, batch 8, whole .97x with 310,000
faults, in rows of 1,024 tokens (this size) 1.01x with none."""


class CompiledStages(dict[tuple[int, int], Callable[..., Tensor]]):
    """Compiled runs of layers first, …, last − 1, by (first, last), made at first use.

    A copy has none: they would run the layers of the model that was copied.
    """

    def __reduce__(self) -> tuple[type["CompiledStages"], tuple[()]]:
        return CompiledStages, ()


class Encoder:
    """The stages of a Hugging Face `…ForSequenceClassification`, none of its modules copied or rewritten.

    Args:
        model: the classifier; its attention is switched to `trbert_packed`, which serves padded calls as well.
        compiled: layers run compiled, where no gradient is wanted; kept there for the next encoder of this model.
        fusion: tells the first token of what is dropped; None tells it nothing.

    Raises:
        UnsupportedModel: The model is of a family without adapter.
    """

    def __init__(self, model: Any, compiled: CompiledStages | None = None, fusion: Fusion | None = None) -> None:
        self.family: Family = family_of(model.config)
        self.model = model
        self.compiled = compiled
        self.base = model.base_model
        self.layers = self.family.layer_list(self.base)
        self.fusion = Fusion(model.config.hidden_size, 0) if fusion is None else fusion
        if model.config._attn_implementation != PACKED_ATTENTION:  # a walk over all modules, longer than a short layer
            model.set_attn_implementation(PACKED_ATTENTION)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.base.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of the layers' products: autocast's within autocast, else the weights' own."""
        kind = self.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else next(self.base.parameters()).dtype

    @property
    def max_tokens(self) -> int:
        """Most tokens of a document, special ones included."""
        config = self.base.config
        return int(config.max_position_embeddings) - self.family.reserved_positions(config)

    def embed(self, tokens: Tokens) -> PackedBatch:
        """Returns the states that enter layer 0.

        Raises:
            InputError: A document is longer than the model has positions.
        """
        batch = start_batch(tokens, torch.empty(tokens.input_ids.numel(), 0, device=tokens.offsets.device))
        arguments: dict[str, Tensor] = {}
        if self.family.embeds_positions:
            arguments["position_ids"] = self._position_ids(tokens, batch)[None]
        if self.family.embeds_segments:
            types = tokens.token_type_ids
            arguments["token_type_ids"] = (torch.zeros_like(tokens.input_ids) if types is None else types)[None]
        states = attrgetter(self.family.embeddings)(self.base)(tokens.input_ids[None], **arguments)
        if self.family.projection is not None and (projection := _maybe(self.base, self.family.projection)) is not None:
            states = projection(states)
        return batch.with_hidden(states[0])

    def run_layers(self, batch: PackedBatch, first: int, last: int, received: TokenFloat | None = None) -> PackedBatch:
        """Returns the batch after layers first, …, last − 1.

        Args:
            batch: states that enter layer `first`.
            first: index of the first layer to run.
            last: index after the last layer to run.
            received: filled in place with the attention each token received in the last of these layers.
        """
        if first == last:
            return batch
        pieces = split_documents(batch, self._tokens_at_once())
        if len(pieces) == 1:
            return self._run_layers(batch, first, last, received)
        shares = [None] * len(pieces) if received is None else received.split([len(piece.hidden) for piece in pieces])
        finished = [
            self._run_layers(piece, first, last, share).hidden for piece, share in zip(pieces, shares, strict=True)
        ]
        return batch.with_hidden(torch.cat(finished))

    def _tokens_at_once(self) -> int:
        """Returns how long a row may be: on a CPU so long that a layer's widest state fits `_BLOCK_BYTES`.

        The allocator takes a block of more than 32 MiB from the system anew each time, and gives smaller ones back when
        enough are free; their pages fault again in every layer. Where the encoder learns its states are kept, so that
        there is no memory to use again.
        """
        learns = torch.is_grad_enabled() and next(self.base.parameters()).requires_grad
        if self.device.type != "cpu" or learns:
            return sys.maxsize
        config = self.base.config
        widest = max(getattr(config, "intermediate_size", 0), 4 * config.hidden_size)
        return max(512, _BLOCK_BYTES // (self.dtype.itemsize * widest))

    def _run_layers(self, batch: PackedBatch, first: int, last: int, received: TokenFloat | None) -> PackedBatch:
        states, offsets = batch.hidden[None], batch.offsets.to(torch.int32)
        rotary = self._rotary_tables(batch)
        layers = self.layers[first:last]
        if self.compiled is None or received is not None or torch.is_grad_enabled():
            states = _run(layers, states, offsets, batch.positions, rotary, batch.segments, received)
        else:
            if (first, last) not in self.compiled:
                self.compiled[first, last] = torch.compile(partial(_run, layers), dynamic=True)
            states = self.compiled[first, last](states, offsets, batch.positions, rotary)
        return batch.with_hidden(states[0])

    def finish(self, batch: PackedBatch, **head_arguments: Any) -> Any:
        """Returns what the model's own head says of the finished states: a `SequenceClassifierOutput`.

        The head runs as Hugging Face wrote it: the classifier's own `forward`, with the encoder below it replaced by
        the states at hand. Heads that average over tokens average over those that were kept.
        """
        head = copy.copy(self.model)
        head._modules = dict(self.model._modules)
        head._modules[self.model.base_model_prefix] = _FinishedEncoder(self.family, self.base)
        states, mask = _padded(batch)
        return head(inputs_embeds=states, attention_mask=mask, return_dict=True, **head_arguments)

    def logits(self, batch: PackedBatch) -> Logits:
        """Returns the class logits of finished states."""
        return self.finish(batch).logits

    def unreduced_logits(self, tokens: Tokens) -> Logits:
        """Returns the class logits of the plain model, packed."""
        return self.logits(self.run_layers(self.embed(tokens), 0, len(self.layers)))

    def _position_ids(self, tokens: Tokens, batch: PackedBatch) -> Tensor:
        config = self.base.config
        positions = batch.positions
        if self.family.first_position_after_padding:
            # As Hugging Face counts: padding ids inside a text neither count nor move.
            real = tokens.input_ids.ne(config.pad_token_id).long()
            count = real.cumsum(0)
            before = torch.cat([count.new_zeros(1), count])[tokens.offsets[:-1]]
            positions = (count - before[batch.documents]) * real + config.pad_token_id
        longest = int(batch.original_lengths.max())
        if longest > self.max_tokens:
            raise InputError(
                f"a document may have at most {self.max_tokens} tokens for this model, and one has {longest}: "
                "tokenise with truncation=True"
            )
        return positions

    def _rotary_tables(self, batch: PackedBatch) -> dict[str | None, tuple[Tensor, Tensor]]:
        if self.family.rotary is None:
            return {}
        rotary = attrgetter(self.family.rotary)(self.base)
        states, positions = batch.hidden[None], batch.positions[None]
        if not self.family.rotary_by_layer_type:
            return {None: rotary(states, positions)}
        return {kind: rotary(states, positions, kind) for kind in set(self.base.config.layer_types)}


def _run(
    layers: Sequence[Any],
    states: Tensor,
    offsets: Tensor,
    positions: Tensor,
    rotary: dict[str | None, tuple[Tensor, Tensor]],
    segments: list[int] | None = None,
    received: Tensor | None = None,
) -> Tensor:
    """Returns the states [1, total, dim] after the layers; `received` is filled by the last."""
    for index, layer in enumerate(layers):
        kind = getattr(layer, "attention_type", None)
        states = layer(
            states,
            attention_mask=None,
            segments=segments,
            offsets=offsets,
            token_positions=positions,
            received=received if index == len(layers) - 1 else None,
            **({"position_embeddings": rotary[kind if kind in rotary else None]} if rotary else {}),
        )
    return states


class _FinishedEncoder(nn.Module):
    """Stands where the base model stood, and returns states that are already there."""

    _parts: tuple[Family, Any]

    def __init__(self, family: Family, base: nn.Module) -> None:
        super().__init__()
        # Not registered as a child: the weights belong to the base model alone.
        object.__setattr__(self, "_parts", (family, base))

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPooling:
        family, base = self._parts
        states = inputs_embeds
        if family.final_norm is not None:
            states = attrgetter(family.final_norm)(base)(states)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=family.pool(base, states))


def _padded(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Returns the states as [docs, longest, dim] with their 0/1 mask, as heads expect them."""
    lengths = batch.lengths
    if len(batch.segments) == len(batch) and len(set(batch.segments)) == 1:  # nothing to pad
        states = batch.hidden.reshape(len(batch), -1, batch.hidden.shape[1])
        return states, torch.ones(states.shape[:2], dtype=torch.long, device=lengths.device)
    column = torch.arange(batch.hidden.shape[0], device=lengths.device) - batch.offsets[:-1][batch.documents]
    shape = (len(batch), int(lengths.max()))
    states = batch.hidden.new_zeros(*shape, batch.hidden.shape[1])
    states = states.index_put((batch.documents, column), batch.hidden)
    mask = torch.zeros(shape, dtype=torch.long, device=lengths.device)
    mask[batch.documents, column] = 1
    return states, mask


def _maybe(base: nn.Module, path: str) -> nn.Module | None:
    try:
        return attrgetter(path)(base)
    except AttributeError:
        return None
