"""The reduced forward pass: run to a reduction point, drop tokens, run on.

Training, the environments and a deployed model all use it.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.packed.batch import PackedBatch, gather_kept, unreduced_row
from trbert.packed.tokens import Tokens
from trbert.selection.exits import Exits
from trbert.selection.fusion import Fusion
from trbert.selection.saliency import saliency
from trbert.selection.selectors import Selector
from trbert.shapes import DocFloat, Hidden, Kept, SampleMasks, TokenFloat, TokenIndex
from trbert.tasks import Task
from trbert.tasks.examples import Examples, Outputs


@dataclass(frozen=True, slots=True)
class ReducedPass:
    """A reduced forward pass that has reached a reduction point, or its end.

    Each document of its batch is a trajectory.

    Attributes:
        batch: the states that enter the reduction point `point`. At the end, the finished states.
        point: the number of the next reduction point; 0 is the first. At the end, the number of points.
        kept: the number of tokens of each trajectory that were left after each past point.
        entered: the batch that entered each past point. It holds the states only where the head reads tokens, because
            they take memory.
    """

    batch: PackedBatch
    point: int
    kept: Kept
    entered: tuple[PackedBatch, ...] = ()

    @property
    def last_states(self) -> Hidden:
        """The last state of each original token.

        It is the finished state of a token that was kept. For a dropped token it is the state with which the token
        entered the point that dropped it. The rows have the order of the unreduced row, one trajectory after the other.
        """
        if not self.entered:
            return self.batch.hidden
        first, *later = self.entered
        row = first.hidden.repeat(len(self.batch) // len(first), 1)
        for batch in (*later, self.batch):
            copies = len(self.batch) // len(batch)
            row = row.index_copy(0, self._places(batch), batch.hidden.to(row.dtype).repeat(copies, 1))
        return row

    @property
    def left_at(self) -> TokenIndex:
        """The point at which each original token was dropped; the number of past points where it was not.

        Rows stand as in the unreduced row, one trajectory after the other.
        """
        total = int(self.batch.original_lengths.sum())
        points = torch.zeros(total, dtype=torch.long, device=self.batch.positions.device)
        if self.entered:
            for number, batch in enumerate((*self.entered[1:], self.batch), start=1):
                points[self._places(batch)] = number
        return points

    def _places(self, batch: PackedBatch) -> TokenIndex:
        """Returns where a past batch's tokens stand in the unreduced row, once for each trajectory they were part of.

        Trajectories that parted later share what came before: number j of the last ones began as number j modulo the
        number of earlier ones.
        """
        copies, width = len(self.batch) // len(batch), batch.original_lengths.sum()
        shift = width * torch.arange(copies, device=batch.positions.device)
        return (shift[:, None] + batch.original_index).flatten()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reducer:
    """A model that can drop tokens between its layers.

    Attributes:
        encoder: the Hugging Face model in stages.
        task: the task, which says what the head reads.
        points: the reduction points, as the layers on whose input tokens may be dropped. () drops nothing.
        fusion: adds the mean of the dropped tokens to the first token. A fusion without maps adds nothing.
        exits: maps the states of dropped tokens, where the head reads or averages all tokens. Exits without maps change
            nothing.
        separator: the id of the token that ends the first part of a document; None where no part is protected.
    """

    encoder: Encoder
    task: Task
    points: tuple[int, ...] = ()
    fusion: Fusion = field(default_factory=Fusion.none)
    exits: Exits = field(default_factory=Exits.none)
    separator: int | None = None

    @property
    def remembers(self) -> bool:
        """Whether the head is shown dropped tokens, too: it reads every token, or averages over all of them."""
        return self.task.reads == "tokens" or len(self.exits.maps) > 0

    def protect(self, tokens: Tokens) -> Tokens:
        """Returns the documents with the tokens protected that are never dropped."""
        return self.task.protect(tokens, self.separator)

    def enter(self, tokens: Tokens, listens: bool = False) -> ReducedPass:
        """Returns the pass at its first reduction point, or at its end where there is no point.

        Args:
            tokens: the documents.
            listens: whether to record the attention of the layer before the point, as the batch's `received`. Before
                layer 0 there is no attention to record.
        """
        first = self.points[0] if self.points else len(self.encoder.layers)
        batch = self.encoder.run_layers(self.encoder.embed(tokens), 0, first, listens)
        return ReducedPass(batch, 0, batch.lengths.new_zeros(0, len(batch)))

    def advance(
        self,
        state: ReducedPass,
        masks: SampleMasks,
        gates: Float[Tensor, " kept"] | None = None,
        listens: bool = False,
    ) -> ReducedPass:
        """Returns the pass at the next reduction point, or at its end after the last point.

        K rows of masks make K trajectories of each one, which share everything up to here. Trajectory d of row s
        becomes trajectory `s · docs + d`.

        Args:
            state: the pass at a reduction point.
            masks: the tokens to keep (True = keep), one row for each sample.
            gates: factors on the states of the kept tokens, through which a gradient reaches the decision; None
                leaves the states as they are.
            listens: whether to record the attention of the layer before the next point, as the batch's `received`.
        """
        point, layers = state.point, len(self.encoder.layers)
        following = self.points[point + 1] if point + 1 < len(self.points) else layers
        kept = self.fusion(state.batch, gather_kept(state.batch, masks), point)
        if gates is not None:
            kept = kept.with_hidden(kept.hidden * gates[:, None].to(kept.hidden.dtype))
        batch = self.encoder.run_layers(kept, self.points[point], following, listens)
        counts = torch.cat([state.kept.repeat(1, masks.shape[0]), batch.lengths[None]])
        return ReducedPass(batch, point + 1, counts, (*state.entered, self._remembered(state.batch)))

    def _remembered(self, batch: PackedBatch) -> PackedBatch:
        if self.remembers:
            return batch
        return replace(batch, hidden=batch.hidden.new_empty(len(batch.hidden), 0), received=None)

    def outputs(self, finished: ReducedPass) -> Outputs:
        """Returns the head's outputs for a finished pass: a row for each document or each original token, by task."""
        if not self.remembers:
            return self.encoder.read_documents(finished.batch)
        states = finished.last_states
        if len(self.exits.maps):
            states = self.exits(states, finished.left_at)
        if self.task.reads == "tokens":
            return self.encoder.read_tokens(states)
        offsets = torch.nn.functional.pad(finished.batch.original_lengths.cumsum(0), (1, 0))
        nothing = torch.zeros(len(states), dtype=torch.bool, device=states.device)
        return self.encoder.read_documents(unreduced_row(offsets, states, nothing))

    def unreduced_outputs(self, tokens: Tokens) -> Outputs:
        """Returns the head's outputs for documents of which no token was dropped."""
        finished = self.encoder.run_layers(self.encoder.embed(tokens), 0, len(self.encoder.layers))
        return self.encoder.read(finished, self.task.reads)

    def run(
        self, selector: Selector, tokens: Tokens, dial: float | DocFloat, examples: Examples | None = None
    ) -> ReducedPass:
        """Returns the finished pass in which a selector decided at each reduction point.

        Args:
            selector: decides which tokens go on.
            tokens: the documents.
            dial: the selector's dial: one for all documents, or one for each.
            examples: the same documents with their targets. Only a selector that reads saliency needs them.

        Raises:
            InputError: The selector does not take this dial. Or it reads attention, and there is no layer before the
                first point. Or it reads saliency, and there are no targets.
        """
        if not isinstance(dial, Tensor):
            selector.check_dial(dial)
        dials = torch.as_tensor(dial, dtype=torch.float32, device=tokens.offsets.device).expand(len(tokens))
        salient = None
        if selector.needs == "saliency" and examples is not None:
            salient = saliency(self.encoder, self.task, examples, self.points)[1]
        listens = selector.needs == "attention"
        state = self.enter(tokens, listens)
        for point in range(len(self.points)):
            evidence: TokenFloat | None = state.batch.received
            if salient is not None:
                evidence = salient[point, state.batch.original_index]
            mask = selector.keep_mask(state.batch, point, len(self.points), dials, evidence)
            state = self.advance(state, mask[None], listens=listens and point + 1 < len(self.points))
        return state


def check_points(points: tuple[int, ...], num_layers: int) -> None:
    """Checks that the reduction points are layers of the model, in rising order.

    Raises:
        InputError: There is no point, they do not rise, or one is no layer of the model.
    """
    rising = all(isinstance(point, int) for point in points) and all(a < b for a, b in pairwise(points))
    if not points or not rising or points[0] < 0 or points[-1] >= num_layers:
        raise InputError(
            f"points must be rising layer indices from 0 to {num_layers - 1}, and are {points}: "
            "use for example (0, 2), to drop after the embeddings and before layer 2"
        )
