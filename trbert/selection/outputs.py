"""What a reduced model says of documents: one way in, whatever runs the pass."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trbert.errors import InputError
from trbert.packed.batch import ReadsDevice
from trbert.packed.buckets import Size
from trbert.packed.tokens import Tokens
from trbert.runners.graphed import Graphed
from trbert.selection.captured import captured_pass
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import Selector
from trbert.shapes import DocFloat, Kept
from trbert.tasks.examples import Examples, Outputs


@dataclass(frozen=True, slots=True)
class Reduced:
    """The result of a reduced pass.

    Attributes:
        outputs: the head's outputs, a row for each document or each original token, by task.
        kept: the number of tokens of each document that were left after each point.
        reduces: False where the pass kept all tokens, because reducing was measured not to pay for such a batch.
    """

    outputs: Outputs
    kept: Kept
    reduces: bool = True


def reduced_outputs(
    reducer: Reducer,
    selector: Selector,
    tokens: Tokens,
    dial: float | DocFloat,
    examples: Examples | None = None,
    pays: Callable[[int, int], bool] | None = None,
) -> Reduced:
    """Returns what the reduced model says of documents.

    A runner that repeats captured stages does so where no gradient is wanted, outside autocast and training mode, and
    where the selector reads the states alone. Elsewhere, and for layers that must read something back from the device,
    the pass runs step by step.

    Args:
        reducer: the model.
        selector: decides which tokens go on.
        tokens: the documents, on any device. A captured pass takes them fastest from the CPU.
        dial: the selector's dial: one for all documents, or one for each.
        examples: the same documents with their targets. Only a selector that reads saliency needs them.
        pays: says whether reducing pays for a batch of so many tokens and so many documents. Where it does not, the
            pass keeps all tokens, as the unreduced model does. So whether a document is reduced depends on how much
            else is in its batch, and its outputs differ by it. None reduces every batch.

    Raises:
        InputError: As `Reducer.run` does. Or there is no document, or one has more tokens than the model has positions.
    """
    if len(tokens) == 0:
        raise InputError("a batch must hold at least one document, and holds none: leave the empty batch out")
    runner, encoder = reducer.encoder.runner, reducer.encoder
    if not isinstance(dial, Tensor):
        selector.check_dial(dial)
    reduces = pays is None or pays(tokens.input_ids.numel(), len(tokens))
    if isinstance(runner, Graphed) and runner.unfit != encoder.dtype and _repeatable(reducer, selector):
        host = tokens.to("cpu")
        encoder.check_tokens(host)
        dials = torch.as_tensor(dial, dtype=torch.float32, device="cpu").expand(len(host))
        size = Size.of(host.input_ids.numel(), len(host), int(host.lengths.max()))
        points = reducer.points if reduces else ()
        with runner.turn(encoder.device):
            try:
                outputs, kept = captured_pass(reducer, selector, runner, points, size).run(host, dials, size)
                return Reduced(outputs, kept) if reduces else _with_all_kept(reducer, outputs, host)
            except ReadsDevice:
                runner.forget()
                runner.unfit = encoder.dtype
    tokens = tokens.to(encoder.device)
    if not reduces:
        return _with_all_kept(reducer, reducer.unreduced_outputs(tokens), tokens)
    finished = reducer.run(selector, tokens, dial, examples)
    return Reduced(reducer.outputs(finished), finished.kept)


def _with_all_kept(reducer: Reducer, outputs: Outputs, tokens: Tokens) -> Reduced:
    """Returns the result of a pass that kept all tokens."""
    kept = tokens.lengths.to(reducer.encoder.device).repeat(len(reducer.points), 1)
    return Reduced(outputs, kept, reduces=False)


def _repeatable(reducer: Reducer, selector: Selector) -> bool:
    """Returns whether the stages of a pass can be captured here and now."""
    plain = reducer.encoder.plain
    parts = (plain, reducer.fusion, reducer.exits)
    learns = torch.is_grad_enabled() and any(each.requires_grad for part in parts for each in part.parameters())
    plainly = not learns and not plain.training and not torch.is_autocast_enabled(reducer.encoder.device.type)
    return plainly and selector.needs is None
