"""What a question's answer is compared with and cut from: its context, the true answers, and the tokens' places."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8, Int32

from trbert.tasks.examples import PADDING
from trbert.tasks.spans.windows import Window

NOT_ALLOWED = PADDING
"""The target of a token at which no answer can start or end, and of padding."""
STARTS, ENDS = 1, 2
"""What is added to the target of a token at which a true answer starts or ends. Other tokens of a context have 0."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A context with the true answers to a question, and the places of its tokens.

    Attributes:
        context: the text.
        answers: the true answers; () where there is none.
        places: for each token of the example's documents its first character in the context, and the one after its
            last.
    """

    context: str
    answers: tuple[str, ...]
    places: Int32[np.ndarray, "tokens 2"]

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Returns the characters from one token to another, without the blanks around them.

        Args:
            first: the index of the first token among the example's tokens.
            last: the index of the last one.
        """
        start, end = int(self.places[first, 0]), int(self.places[last, 1])
        text = self.context[start:end]
        return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def targets_of(windows: Sequence[Window], answers: Sequence[tuple[int, int]]) -> Int8[np.ndarray, " tokens"] | None:
    """Returns the target of each token of a question's documents; None where no answer has a token.

    An answer is marked in each window that holds the whole of it. If none does, its start and its end are marked
    wherever they stand. Where there is no answer, the first token of the first window is the start and the end.

    Args:
        windows: the documents.
        answers: the first character of each answer, and the one after its last; () where there is none.
    """
    targets = [np.where(window.places[:, 1] > 0, 0, NOT_ALLOWED).astype(np.int8) for window in windows]
    targets[0][0] = 0 if answers else STARTS + ENDS
    for start, end in answers:
        touched = [np.flatnonzero((window.places[:, 1] > start) & (window.places[:, 0] < end)) for window in windows]
        there = [number for number, tokens in enumerate(touched) if len(tokens)]
        if not there:
            continue
        first = min(windows[number].places[touched[number][0], 0] for number in there)
        last = max(windows[number].places[touched[number][-1], 1] for number in there)
        begun = [number for number in there if windows[number].places[touched[number][0], 0] == first]
        ended = [number for number in there if windows[number].places[touched[number][-1], 1] == last]
        whole = sorted({*begun} & {*ended})
        for number in whole or begun:
            targets[number][touched[number][0]] |= STARTS
        for number in whole or ended:
            targets[number][touched[number][-1]] |= ENDS
    every = np.concatenate(targets)
    return every if bool((every > 0).any()) else None
