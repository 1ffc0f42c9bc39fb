"""A reduced pass whose stages are captured once for each size of row, and repeated: nothing is launched one by one.

A stage is the layers from one reduction point to the next, with the decision at its end. It runs on a bucketed row
(`trbert.packed.buckets`). Of what it decides only the number of kept tokens comes back from the device, to choose the
size of the next stage's row. So there is one wait for each reduction point.
"""

from collections.abc import Hashable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trbert.packed.batch import PackedBatch
from trbert.packed.buckets import Size, compacted, filler_of, original_places, start_bucketed
from trbert.packed.tokens import Tokens
from trbert.runners.graphed import Graphed
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import Selector
from trbert.shapes import DocFloat, Kept
from trbert.tasks.examples import Outputs


class Arena:
    """Tensors that stay where they are in memory from call to call, by name.

    Each is made when something is first put there, with room for the largest row.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def put(self, name: str, values: Tensor, room: int) -> None:
        """Writes values to the front of a tensor, which has `room` rows."""
        if name not in self._held:
            with torch.inference_mode(False):
                self._held[name] = torch.zeros(room, *values.shape[1:], dtype=values.dtype, device=self._device)
        self._held[name][: len(values)].copy_(values, non_blocking=True)

    def get(self, name: str, rows: int) -> Tensor:
        """Returns the first rows of a tensor."""
        return self._held[name][:rows]


class CapturedPass:
    """The reduced passes of one model, at fixed places in memory.

    Args:
        reducer: the model.
        selector: decides which tokens go on. It reads nothing but the states.
        runner: captures the stages.
        points: where tokens are dropped: the model's own reduction points, or () for passes that keep all tokens.
        tokens: the most tokens of a row, as a bucket.
        docs: the most documents of a row, as a bucket.
    """

    def __init__(
        self, reducer: Reducer, selector: Selector, runner: Graphed, points: tuple[int, ...], tokens: int, docs: int
    ) -> None:
        self.reducer, self.selector, self.runner = reducer, selector, runner
        self.points, self.tokens, self.docs = points, tokens, docs
        device = reducer.encoder.device
        self._arena = Arena(device)
        # From pinned memory a GPU copies by itself, while the program goes on.
        self._pinned = device.type == "cuda"
        with torch.inference_mode(False):  # a tensor of inference mode could be written to in that mode alone
            self._counts = [torch.zeros(1, dtype=torch.long, pin_memory=self._pinned) for _ in points]

    def holds(self, size: Size) -> bool:
        """Returns whether a row of this size has room."""
        return size.tokens <= self.tokens and size.docs <= self.docs

    def run(self, tokens: Tokens, dials: DocFloat, first: Size) -> tuple[Outputs, Kept]:
        """Returns the head's outputs, and the number of tokens of each document that were left after each point.

        Args:
            tokens: the documents, on the CPU.
            dials: the dial of each document.
            first: the size of the first stage's row, which holds the documents.
        """
        reducer = self.reducer
        total, docs = tokens.input_ids.numel(), len(tokens)
        self._load(tokens, dials, first)
        size = first
        for point in range(len(self.points)):
            self._repeat((point, size), partial(self._decide, point, size))
            size = size.with_tokens(self._count(point))
        self._repeat((len(self.points), size, first.tokens), partial(self._finish, size, first.tokens))
        wanted = docs if reducer.task.reads == "documents" else total
        kept = [self._arena.get(f"starts {point + 1}", docs + 1).diff() for point in range(len(self.points))]
        none = tokens.lengths.new_zeros(0, docs, device=reducer.encoder.device)
        return self._arena.get("outputs", wanted).clone(), torch.stack(kept) if kept else none

    def _repeat(self, key: Hashable, work: Any) -> None:
        self.runner.repeat((self.points, key), work, self.reducer.encoder.device)

    def _load(self, tokens: Tokens, dials: DocFloat, size: Size) -> None:
        """Writes the documents to where the first stage reads them."""
        empty = size.docs - len(tokens)
        end = tokens.offsets[-1:]
        parts = {"ids": (tokens.input_ids, self.tokens), "protected": (tokens.protected, self.tokens)}
        if self.reducer.encoder.num_segments > 1:
            types = tokens.token_type_ids
            parts["types"] = (torch.zeros_like(tokens.input_ids) if types is None else types, self.tokens)
        # The last start is the filler's. An empty document counts as one of one token, which has a logarithm.
        parts["starts 0"] = (torch.cat([tokens.offsets, end.expand(empty)]), self.docs + 1)
        parts["originals"] = (torch.cat([tokens.lengths, end.new_ones(empty + 1)]), self.docs + 1)
        parts["dials"] = (torch.cat([dials, dials.new_zeros(empty + 1)]), self.docs + 1)
        for name, (values, room) in parts.items():
            self._arena.put(name, values.pin_memory() if self._pinned else values, room)

    def _count(self, point: int) -> int:
        """Returns how many tokens a point kept, when the device has decided it."""
        if self._pinned:
            torch.cuda.current_stream(self.reducer.encoder.device).synchronize()
        return int(self._counts[point])

    def _remember(self, batch: PackedBatch) -> None:
        """Writes the last state of each token, if the head is shown them: later ones take the place of earlier ones."""
        if self.reducer.remembers:
            places = original_places(batch, self.tokens)
            if "last" not in self._arena:
                self._arena.put("last", batch.hidden, self.tokens + 1)
            self._arena.get("last", self.tokens + 1).index_copy_(0, places, batch.hidden)

    def _decide(self, point: int, size: Size) -> None:
        """Runs the layers up to a reduction point, and decides there."""
        reducer, arena = self.reducer, self._arena
        batch = self._entering(point, size)
        dials = arena.get("dials", size.docs + 1)
        mask = self.selector.keep_mask(batch, point, len(self.points), dials, None)
        mask = mask & (batch.documents < filler_of(batch))
        self._remember(batch.with_hidden(reducer.exits.at(batch.hidden, point)))
        kept = reducer.fusion(batch, compacted(batch, mask), point)
        for name, values in (("hidden", kept.hidden), ("positions", kept.positions), ("documents", kept.documents)):
            arena.put(f"{name} {point + 1}", values, self.tokens)
        arena.put(f"protected {point + 1}", kept.protected, self.tokens)
        arena.put(f"starts {point + 1}", kept.offsets[:-1], self.docs + 1)
        self._counts[point].copy_(kept.offsets[-2:-1], non_blocking=True)

    def _finish(self, size: Size, unreduced: int) -> None:
        """Runs the layers after the last point, and the head.

        Args:
            size: of the row.
            unreduced: the number of tokens of the first row, the filler's included.
        """
        reducer, arena = self.reducer, self._arena
        batch = self._entering(len(self.points), size)
        self._remember(batch)
        if reducer.task.reads == "tokens":
            arena.put("outputs", reducer.encoder.read_tokens(arena.get("last", unreduced)), self.tokens)
            return
        if reducer.remembers:
            batch = self._started(replace(size, tokens=unreduced))[1].with_hidden(arena.get("last", unreduced))
        arena.put("outputs", reducer.encoder.read_documents(batch)[: size.docs], self.docs)

    def _entering(self, point: int, size: Size) -> PackedBatch:
        """Returns the row that enters a reduction point, or that is finished: the layers before it have run."""
        reducer, arena = self.reducer, self._arena
        encoder, layers = reducer.encoder, (0, *self.points, len(reducer.encoder.layers))
        if point == 0:
            batch = encoder.embed_row(*self._started(size))
        else:
            batch = PackedBatch(
                hidden=arena.get(f"hidden {point}", size.tokens),
                positions=arena.get(f"positions {point}", size.tokens),
                documents=arena.get(f"documents {point}", size.tokens),
                protected=arena.get(f"protected {point}", size.tokens),
                original_lengths=arena.get("originals", size.docs + 1),
                offsets=self._offsets(point, size),
                longest=size.longest,
            )
        return encoder.run_layers(batch, layers[point], layers[point + 1])

    def _started(self, size: Size) -> tuple[Tokens, PackedBatch]:
        """Returns the row that enters the first layer, and its batch without states."""
        arena = self._arena
        return start_bucketed(
            arena.get("ids", size.tokens),
            arena.get("types", size.tokens) if "types" in arena else None,
            arena.get("protected", size.tokens),
            self._offsets(0, size),
            arena.get("originals", size.docs + 1),
            size.longest,
            self.reducer.encoder.base.config.pad_token_id or 0,
        )

    def _offsets(self, point: int, size: Size) -> Tensor:
        """Returns where each document of the row that enters a point starts, and the end of the row."""
        starts = self._arena.get(f"starts {point}", size.docs + 1)
        return torch.cat([starts, starts.new_full((1,), size.tokens)])


def captured_pass(
    reducer: Reducer, selector: Selector, runner: Graphed, points: tuple[int, ...], size: Size
) -> CapturedPass:
    """Returns the captured pass of a model, made anew if its weights have moved or a row does not fit."""

    def make(tokens: int, docs: int) -> CapturedPass:
        return CapturedPass(reducer, selector, runner, points, tokens, docs)

    identity = _identity(reducer, selector, runner)
    found: CapturedPass = runner.kept_for(identity, points, partial(make, size.tokens, size.docs))
    if not found.holds(size):
        tokens, docs = max(found.tokens, size.tokens), max(found.docs, size.docs)
        runner.forget()
        found = runner.kept_for(identity, points, partial(make, tokens, docs))
    return found


def _identity(reducer: Reducer, selector: Selector, runner: Graphed) -> Hashable:
    """Returns what captured work depends on: where the weights are, and what is done with them."""
    encoder = reducer.encoder
    places = runner.places.of(encoder.plain, selector.policy, reducer.fusion, reducer.exits)
    return places, encoder.dtype, reducer.points, reducer.task.name, type(selector)
