"""The reduced forward pass: run to a reduction point, drop, run on. Deployment, environment and training all use it."""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from trbert.encoder import Encoder
from trbert.errors import InputError
from trbert.packed.batch import PackedBatch, gather_kept
from trbert.packed.tokens import Tokens
from trbert.selection.fusion import Fusion
from trbert.selection.saliency import saliency
from trbert.selection.selectors import Selector
from trbert.shapes import DocFloat, Hidden, Kept, SampleMasks, TokenFloat, TokenIndex
from trbert.tasks import Task
from trbert.tasks.examples import Examples, Outputs


@dataclass(frozen=True, slots=True)
class ReducedPass:
    """A reduced forward pass on its way, or at its end. One document of its batch is one trajectory.

    Attributes:
        batch: states entering the reduction point `point`, or finished ones.
        point: which decision comes next, 0 the first; the number of points when the pass is over.
        kept: tokens of each trajectory left after each past point.
        entered: what entered each past point; its states only where the head reads tokens, for they take memory.
    """

    batch: PackedBatch
    point: int
    kept: Kept
    entered: tuple[PackedBatch, ...] = ()

    @property
    def last_states(self) -> Hidden:
        """Each original token's last state: the finished one, or the one in which it entered the point where it went.

        Rows stand as in the unreduced row, one trajectory after the other.
        """
        if not self.entered:
            return self.batch.hidden
        first, *later = self.entered
        # Samples part at the first point, so that what entered it is shared by all of them.
        row = first.hidden.repeat(len(self.batch) // len(first), 1)
        for batch in (*later, self.batch):
            row = row.index_copy(0, batch.original_index, batch.hidden.to(row.dtype))
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
                points[batch.original_index] = number
        return points


@dataclass(frozen=True, slots=True, kw_only=True)
class Reducer:
    """A model that can drop tokens on its way.

    Attributes:
        encoder: the Hugging Face model in stages.
        task: says what the head reads.
        points: layers on whose input tokens may be dropped; () where none ever are.
        fusion: what is dropped leaves its mean through it; without maps it leaves nothing.
    """

    encoder: Encoder
    task: Task
    points: tuple[int, ...] = ()
    fusion: Fusion = field(default_factory=Fusion.none)

    def enter(self, tokens: Tokens, listens: bool = False) -> ReducedPass:
        """Returns the pass at its first reduction point; at its end where there is none.

        Args:
            tokens: the documents.
            listens: the batch's `received` is to be the attention of the layer before; there is none at point 0.
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
        """Returns the pass at the next reduction point, or at its end after the last.

        With K rows of masks each trajectory branches into K, which share all that came before; trajectory d of row
        s becomes number `s · docs + d`.

        Args:
            state: the pass at a reduction point.
            masks: True = keep, one row a sample.
            gates: factors of the kept tokens' states, where a gradient is to reach the decision.
            listens: the batch's `received` is to be the attention of the layer before the next point.
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
        if self.task.reads == "tokens":
            return batch
        return replace(batch, hidden=batch.hidden.new_empty(len(batch.hidden), 0), received=None)

    def outputs(self, finished: ReducedPass) -> Outputs:
        """Returns what the head says of a finished pass, as the task reads: of documents, or of original tokens."""
        if self.task.reads == "documents":
            return self.encoder.read_documents(finished.batch)
        return self.encoder.read_tokens(finished.last_states)

    def unreduced_outputs(self, tokens: Tokens) -> Outputs:
        """Returns what the head says of documents of which nothing was dropped."""
        finished = self.encoder.run_layers(self.encoder.embed(tokens), 0, len(self.encoder.layers))
        return self.encoder.read(finished, self.task.reads)

    def run(
        self, selector: Selector, tokens: Tokens, dial: float | DocFloat, examples: Examples | None = None
    ) -> ReducedPass:
        """Returns the finished pass after dropping, at each reduction point, what the selector does not keep.

        Args:
            selector: decides.
            tokens: the documents.
            dial: the selector's dial, one for all documents or one each.
            examples: the same documents with their targets, for a selector that reads saliency.

        Raises:
            InputError: The selector cannot stand at this dial; it reads attention, and its first point has no layer
                before it; or it reads saliency, and there are no targets.
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
    """Raises InputError unless the reduction points rise and name layers of the model."""
    rising = all(a < b for a, b in pairwise(points))
    if not points or not rising or points[0] < 0 or points[-1] >= num_layers:
        raise InputError(
            f"points must be rising layer indices from 0 to {num_layers - 1}, and are {points}: "
            "use for example (0, 2), to drop after the embeddings and before layer 2"
        )
