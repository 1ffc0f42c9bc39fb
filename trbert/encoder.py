"""A Hugging Face model in stages: embed a packed row, run its own layers i..j on it, run its own head."""

import copy
import sys
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from trbert.errors import InputError
from trbert.packed.attention import PACKED_ATTENTION, AttentionProbe
from trbert.packed.batch import PackedBatch, split_documents, start_batch
from trbert.packed.families import Family, family_of
from trbert.packed.tokens import Tokens
from trbert.runners.eager import Eager
from trbert.runners.runner import RotaryTables, Runner
from trbert.shapes import Float, Hidden, Logits

_BLOCK_BYTES = 12 * 2**20
"""Most bytes of one state on a CPU.

Measured on two cores, float32, documents of 512 tokens; times the padded model's speed, and page faults:

* MiniLM, batch 8: the whole row at once .99 with 24,500 faults; rows of 4,096 tokens 1.01 with as many; rows of 2,048
  tokens (this size) 1.07 with none; rows of 1,024 tokens 1.02.
* MiniLM, batch 32: 1.00, 1.11, 1.14 (this size), 1.10.
* BERT-base, batch 8: the whole row at once .97 with 310,000 faults; rows of 1,024 tokens (this size) 1.01 with none.
"""


Reads = Literal["documents", "tokens"]
"""What a head reads: one state of each document, or the last state of every original token."""


class Encoder:
    """The stages of a Hugging Face model with a head, none of its modules copied or rewritten.

    Args:
        plain: the Hugging Face model; its attention is switched to `trbert_packed`, which serves padded calls as well.
        runner: how its layers are run; eagerly when None.

    Raises:
        UnsupportedModel: The model is of a family without adapter.
    """

    def __init__(self, plain: Any, runner: Runner | None = None) -> None:
        self.family: Family = family_of(plain.config)
        self.plain = plain
        self.base = plain.base_model
        self.layers = self.family.layer_list(self.base)
        self.runner = Eager() if runner is None else runner
        if plain.config._attn_implementation != PACKED_ATTENTION:  # a walk over all modules, longer than a short layer
            plain.set_attn_implementation(PACKED_ATTENTION)

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

    def run_layers(self, batch: PackedBatch, first: int, last: int, listens: bool = False) -> PackedBatch:
        """Returns the batch after layers first, …, last − 1.

        Args:
            batch: states that enter layer `first`.
            first: index of the first layer to run.
            last: index after the last layer to run.
            listens: the batch's `received` is to be the attention that each token received in the last of them.
        """
        if first == last:
            return batch
        pieces = split_documents(batch, self._tokens_at_once())
        if len(pieces) == 1:
            return self._run_layers(batch, first, last, listens)
        finished = [self._run_layers(piece, first, last, listens) for piece in pieces]
        received = [piece.received for piece in finished if piece.received is not None]
        hidden = torch.cat([piece.hidden for piece in finished])
        return batch.with_hidden(hidden, torch.cat(received) if received else None)

    def _tokens_at_once(self) -> int:
        """Returns how many tokens a row may have: on a CPU, as many as let a layer's widest state fit `_BLOCK_BYTES`.

        The allocator asks the system for each block of more than 32 MiB again, and the pages of such a block fault in
        every layer. Smaller blocks are used again. Where the encoder learns, its states are kept for the backward
        pass, so that there is no memory to use again, and rows are not split.
        """
        learns = torch.is_grad_enabled() and next(self.base.parameters()).requires_grad
        if self.device.type != "cpu" or learns:
            return sys.maxsize
        config = self.base.config
        widest = max(getattr(config, "intermediate_size", 0), 4 * config.hidden_size)
        return max(512, _BLOCK_BYTES // (self.dtype.itemsize * widest))

    def _run_layers(self, batch: PackedBatch, first: int, last: int, listens: bool) -> PackedBatch:
        probe = AttentionProbe() if listens else None
        hidden = self.runner.run(self.layers, (first, last), batch, self._rotary_tables(batch), probe)
        return batch.with_hidden(hidden, probe.received if probe else None)

    def read(self, finished: PackedBatch, reads: Reads) -> Logits:
        """Returns what the head says of finished states none of which were dropped.

        Args:
            finished: states after the last layer.
            reads: whether the head reads documents or tokens.
        """
        return self.read_documents(finished) if reads == "documents" else self.read_tokens(finished.hidden)

    def read_documents(self, batch: PackedBatch) -> Logits:
        """Returns what the model's own head says of each document's finished states.

        The head runs as Hugging Face wrote it: the model's own `forward`, with the encoder below it replaced by the
        states at hand. Heads that average over tokens average over those that were kept.
        """
        return self._head(*_padded(batch))

    def read_tokens(self, states: Hidden) -> Float[Tensor, "total classes"]:
        """Returns what the model's own head says of each token's last state; the head sees one token at a time."""
        return self._head(states[None], torch.ones(1, len(states), dtype=torch.long, device=states.device))[0]

    def _head(self, states: Tensor, mask: Tensor) -> Tensor:
        head = copy.copy(self.plain)
        head._modules = dict(self.plain._modules)
        head._modules[self.plain.base_model_prefix] = _FinishedEncoder(self.family, self.base)
        outputs: Tensor = head(inputs_embeds=states, attention_mask=mask, return_dict=True).logits
        return outputs

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

    def _rotary_tables(self, batch: PackedBatch) -> RotaryTables:
        if self.family.rotary is None:
            return {}
        rotary = attrgetter(self.family.rotary)(self.base)
        states, positions = batch.hidden[None], batch.positions[None]
        if not self.family.rotary_by_layer_type:
            return {None: rotary(states, positions)}
        return {kind: rotary(states, positions, kind) for kind in set(self.base.config.layer_types)}


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
