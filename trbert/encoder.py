"""A Hugging Face model in stages: embed a packed row, run some of the model's own layers on it, read its own head."""

import copy
import sys
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from trbert.errors import InputError, UnsupportedModel
from trbert.packed.attention import PACKED_ATTENTION, AttentionProbe
from trbert.packed.batch import PackedBatch, split_documents, start_batch
from trbert.packed.by_document import ByDocument
from trbert.packed.families import Family, family_of
from trbert.packed.heads import compares_choices, has_head, outputs_of, pooled, summarises_padding
from trbert.packed.tokens import Tokens
from trbert.runners.eager import Eager
from trbert.runners.runner import PositionTables, Runner
from trbert.shapes import DocIndex, Float, Hidden, Logits

_BLOCK_BYTES = 12 * 2**20
"""The most bytes of a layer's widest state on a CPU. It sets how many tokens a row may have there.

The speed of the unreduced packed model over that of the padded model was measured for several sizes of a row, on two
cores, in float32, with documents of 512 tokens. The rows that this constant gives are marked with *.

| model, batch  | whole row | 4,096 tokens | 2,048 tokens | 1,024 tokens |
|---------------|-----------|--------------|--------------|--------------|
| MiniLM, 8     | 0.99      | 1.01         | 1.07 *       | 1.02         |
| MiniLM, 32    | 1.00      | 1.11         | 1.14 *       | 1.10         |
| BERT-base, 8  | 0.97      |              |              | 1.01 *       |

Large rows cost page faults. MiniLM at batch 8 had 24,500 faults in a whole row, as many in rows of 4,096 tokens, and
none in rows of 2,048. BERT-base had 310,000 in a whole row, and none in rows of 1,024.
"""


Reads = Literal["documents", "tokens"]
"""What a head reads: one state of each document, or the last state of every original token."""


class Encoder:
    """A Hugging Face model with a head, in stages. Its modules are neither copied nor rewritten.

    Args:
        plain: the Hugging Face model. Its attention is switched to `trbert_packed`, in place, where it can be. The
            model can still be called with padded batches.
        runner: the way to run its layers; None runs them eagerly.

    Raises:
        UnsupportedModel: `trbert.packed.families` does not describe the model's family, or its head reads padding.
    """

    def __init__(self, plain: Any, runner: Runner | None = None) -> None:
        self.family: Family = family_of(plain.config)
        if summarises_padding(plain):
            raise UnsupportedModel(
                "summary_type of a model that compares options must be 'first', and is "
                f"{plain.config.summary_type!r}: this head would read the padding of a batch; set it in config.json "
                "before the head is trained, or pass another encoder"
            )
        self.plain = plain
        self.base = plain.base_model
        grouped = self.family.grouped
        self.layers = [
            ByDocument(layer) if type(layer).__name__ in self.family.by_document else layer
            for layer in self.family.layer_list(self.base)
        ]
        if grouped is not None:
            self.layers = [grouped(self.base, index, layer) for index, layer in enumerate(self.layers)]
        self.runner = Eager() if runner is None else runner
        # Setting it visits all modules, which takes longer than a small layer. So it is set only where it differs.
        packed = grouped is None and any(not isinstance(layer, ByDocument) for layer in self.layers)
        if packed and plain.config._attn_implementation != PACKED_ATTENTION:
            plain.set_attn_implementation(PACKED_ATTENTION)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.base.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The arithmetic of the layers' matrix products: that of autocast where it is on, else that of the weights."""
        kind = self.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else next(self.base.parameters()).dtype

    @property
    def max_tokens(self) -> int:
        """The most tokens of a document, with its special tokens."""
        return self.family.max_tokens(self.base.config)

    @property
    def num_segments(self) -> int:
        """The number of segments that the embeddings tell apart; 1 where they tell none apart."""
        return self.family.num_segments(self.base.config)

    def check_tokens(self, tokens: Tokens) -> None:
        """Checks that the embeddings can read these documents.

        It reads the largest ids from the device, so it is for a whole split rather than for each batch.

        Raises:
            InputError: A token id or a segment id is beyond its table, or a document has more tokens than the model has
                positions.
        """
        rows = self.base.get_input_embeddings().num_embeddings
        least, most = (int(id) for id in tokens.input_ids.aminmax())
        if not 0 <= least <= most < rows:
            raise InputError(
                f"token ids must be from 0 to {rows - 1}, because the model's table of embeddings has {rows} rows, and "
                f"one is {most if most >= rows else least}: use the model's own tokenizer; where tokens were added to "
                "it, call model.resize_token_embeddings(len(tokenizer)), and save the model again"
            )
        types, segments = tokens.token_type_ids, self.num_segments
        if types is not None and segments > 1:
            least, most = (int(kind) for kind in types.aminmax())
            if not 0 <= least <= most < segments:
                raise InputError(
                    f"token_type_ids must be from 0 to {segments - 1}, because the model knows {segments} segments, "
                    f"and one is {most if most >= segments else least}: use the model's own tokenizer"
                )
        self._check_length(tokens.lengths)

    def _check_length(self, lengths: DocIndex) -> None:
        """Raises InputError if a document has more tokens than the model has positions. Computed ones never end."""
        learns = self.family.learns_positions(self.base.config)
        if learns and (longest := int(lengths.max())) > self.max_tokens:
            raise InputError(
                f"a document may have at most {self.max_tokens} tokens for this model, and one has {longest}: "
                "tokenise with truncation=True"
            )

    def embed(self, tokens: Tokens) -> PackedBatch:
        """Returns the states of the documents that enter layer 0.

        Segment ids are not read where the model has one segment or none.

        Raises:
            InputError: A document has more tokens than the model has positions. Or an id is beyond its table, which is
                found out on a CPU only.
        """
        self._check_length(tokens.lengths)
        batch = start_batch(tokens, torch.empty(tokens.input_ids.numel(), 0, device=tokens.offsets.device))
        try:
            return self.embed_row(tokens, batch)
        except IndexError:  # an id is beyond its table; a CPU finds that out at no cost
            self.check_tokens(tokens)
            raise

    def embed_row(self, tokens: Tokens, batch: PackedBatch) -> PackedBatch:
        """Returns a batch with the states that enter layer 0. Nothing is checked, or read from the device.

        Args:
            tokens: the documents.
            batch: their batch, without states.
        """
        arguments: dict[str, Tensor] = {}
        if self.family.embeds_positions:
            arguments["position_ids"] = self._position_ids(tokens, batch)[None]
        if self.family.embeds_segments:
            types = tokens.token_type_ids if self.num_segments > 1 else None
            arguments["token_type_ids"] = (torch.zeros_like(tokens.input_ids) if types is None else types)[None]
        states = attrgetter(self.family.embeddings)(self.base)(tokens.input_ids[None], **arguments)
        if self.family.projection is not None and (projection := _maybe(self.base, self.family.projection)) is not None:
            states = projection(states)
        return batch.with_hidden(states[0])

    def run_layers(self, batch: PackedBatch, first: int, last: int, listens: bool = False) -> PackedBatch:
        """Returns the batch after the layers first, …, last − 1.

        Args:
            batch: the states that enter layer `first`.
            first: the index of the first layer to run.
            last: the index after the last layer to run.
            listens: whether to record the attention that each token received in the last of these layers, as the
                batch's `received`. Layers that are run by document are not listened to, so the last other one is. If
                there is none, all tokens of a document received the same.
        """
        if first == last:
            return batch
        pieces = [batch] if batch.longest is not None else split_documents(batch, self._tokens_at_once())
        if len(pieces) == 1:
            return self._run_layers(batch, first, last, listens)
        finished = [self._run_layers(piece, first, last, listens) for piece in pieces]
        received = [piece.received for piece in finished if piece.received is not None]
        hidden = torch.cat([piece.hidden for piece in finished])
        return batch.with_hidden(hidden, torch.cat(received) if received else None)

    def _tokens_at_once(self) -> int:
        """Returns how many tokens a row may have.

        On a CPU, a layer's widest state must fit in `_BLOCK_BYTES`. The memory allocator keeps small blocks and uses
        them again. A block of more than 32 MiB is asked from the system each time, and every page of it faults, in
        every layer. Elsewhere there is no limit. There is none where the encoder learns, either: its states are kept
        for the backward pass, so that no block could be used again.
        """
        learns = torch.is_grad_enabled() and next(self.base.parameters()).requires_grad
        if self.device.type != "cpu" or learns:
            return sys.maxsize
        config = self.base.config
        widest = max(getattr(config, "intermediate_size", 0), 4 * config.hidden_size)
        return max(512, _BLOCK_BYTES // (self.dtype.itemsize * widest))

    def _run_layers(self, batch: PackedBatch, first: int, last: int, listens: bool) -> PackedBatch:
        probe = AttentionProbe() if listens else None
        hidden = self.runner.run(self.layers, (first, last), batch, self.position_tables(batch), probe)
        if probe is None:
            return batch.with_hidden(hidden)
        heard = probe.received
        return batch.with_hidden(hidden, 1 / batch.lengths[batch.documents] if heard is None else heard)

    def read(self, finished: PackedBatch, reads: Reads) -> Logits:
        """Returns the head's outputs for the finished states of documents of which no token was dropped.

        Args:
            finished: the states after the last layer.
            reads: whether the head reads documents or tokens.
        """
        return self.read_documents(finished) if reads == "documents" else self.read_tokens(finished.hidden)

    def read_documents(self, batch: PackedBatch) -> Logits:
        """Returns the outputs of the model's own head for each document, from its finished states.

        The head runs as Hugging Face wrote it. The model's own `forward` is called, and the encoder within it is
        replaced by a module that returns the finished states. A head that averages over tokens averages over those of
        the batch. So does the pooling of a model without a head.
        """
        return self._head(*_padded(batch))

    def read_tokens(self, states: Hidden) -> Float[Tensor, "total classes"]:
        """Returns the outputs of the model's own head for each token, from its last state alone."""
        return self._head(states[None], torch.ones(1, len(states), dtype=torch.long, device=states.device))[0]

    def _head(self, states: Tensor, mask: Tensor) -> Tensor:
        if not has_head(self.plain):
            return pooled(self.plain, _normed(self.family, self.base, states), mask)
        head = copy.copy(self.plain)
        head._modules = dict(self.plain._modules)
        head._modules[self.plain.base_model_prefix] = FinishedEncoder(self.family, self.base)
        if compares_choices(self.plain):  # each document is an example with one choice
            states, mask = states[:, None], mask[:, None]
        return outputs_of(head(inputs_embeds=states, attention_mask=mask, return_dict=True))

    def _position_ids(self, tokens: Tokens, batch: PackedBatch) -> Tensor:
        config = self.base.config
        positions = batch.positions
        if self.family.first_position_after_padding:
            # As in Hugging Face: a padding id within a text has the position `pad_token_id`, and is not counted.
            real = tokens.input_ids.ne(config.pad_token_id).long()
            count = real.cumsum(0)
            before = torch.cat([count.new_zeros(1), count])[tokens.offsets[:-1]]
            positions = (count - before[batch.documents]) * real + config.pad_token_id
        return positions

    def position_tables(self, batch: PackedBatch) -> PositionTables:
        """Returns what the layers take of the positions of a batch's tokens, such as (cos, sin)."""
        if self.family.grouped is not None:
            return {None: self.family.grouped.positions(self.base, batch)}
        if self.family.rotary is None:
            return {}
        rotary = attrgetter(self.family.rotary)(self.base)
        states, positions = batch.hidden[None], batch.positions[None]
        if not self.family.rotary_by_layer_type:
            return {None: rotary(states, positions)}
        return {kind: rotary(states, positions, kind) for kind in set(self.base.config.layer_types)}


class FinishedEncoder(nn.Module):
    """Takes the place of the base model, and returns the finished states that it is called with."""

    _parts: tuple[Family, Any]

    def __init__(self, family: Family, base: nn.Module) -> None:
        super().__init__()
        # They are not registered as children, because the weights belong to the base model alone.
        object.__setattr__(self, "_parts", (family, base))

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPooling:
        """Returns the states after the final norm, and the pooled state of each document."""
        family, base = self._parts
        states = _normed(family, base, inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=family.pool(base, states))


def _normed(family: Family, base: Any, states: Tensor) -> Tensor:
    """Returns the states after the final norm, where the family has one."""
    return states if family.final_norm is None else attrgetter(family.final_norm)(base)(states)


def _padded(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Returns the states as a padded tensor [docs, longest, dim] with its 0/1 mask, as heads take them."""
    lengths = batch.lengths
    if batch.longest is not None:
        return _padded_to(batch, batch.longest)
    if len(batch.segments) == len(batch) and len(set(batch.segments)) == 1:  # nothing to pad
        states = batch.hidden.reshape(len(batch), -1, batch.hidden.shape[1])
        return states, torch.ones(states.shape[:2], dtype=torch.long, device=lengths.device)
    return _padded_to(batch, int(lengths.max()))


def _padded_to(batch: PackedBatch, width: int) -> tuple[Tensor, Tensor]:
    place = torch.arange(batch.hidden.shape[0], device=batch.offsets.device)
    # A filler may have more tokens than there are columns; its states are never read.
    column = (place - batch.offsets[:-1][batch.documents]).clamp(max=width - 1)
    shape = (len(batch), width)
    states = batch.hidden.new_zeros(*shape, batch.hidden.shape[1])
    states = states.index_put((batch.documents, column), batch.hidden)
    mask = torch.zeros(shape, dtype=torch.long, device=states.device)
    return states, mask.index_put((batch.documents, column), torch.ones_like(column))


def _maybe(base: nn.Module, path: str) -> nn.Module | None:
    try:
        return attrgetter(path)(base)
    except AttributeError:
        return None
