"""Compares answers as SQuAD's official script does: normalised texts, the F1 score of their words, exact match."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Returns a text in small letters without punctuation and articles, with one blank between its words.

    Example:
        >>> normalised("The  U.S. Senate!")
        'us senate'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(said: str, true: str) -> float:
    """Returns the F1 score of the words of two answers, both normalised. If one of them is empty, both must be.

    Example:
        >>> f1("the red house", "a red car"), f1("", "")
        (0.5, 1.0)
    """
    words, wanted = normalised(said).split(), normalised(true).split()
    if not words or not wanted:
        return float(words == wanted)
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted))


def exact_match(said: str, true: str) -> float:
    """Returns 1 where two answers are equal once they are normalised, and else 0.

    Example:
        >>> exact_match("The Senate", "senate."), exact_match("Senate", "House")
        (1.0, 0.0)
    """
    return float(normalised(said) == normalised(true))


def best(measure: Callable[[str, str], float], said: str, answers: Sequence[str]) -> float:
    """Returns the highest value of a measure over the true answers of a question.

    Args:
        measure: `f1` or `exact_match`.
        said: the answer to judge; "" says that there is none.
        answers: the true answers. If there is none that is more than articles and punctuation, "" is the true one.

    Example:
        >>> best(f1, "", []), best(f1, "red", ["blue", "red"])
        (1.0, 1.0)
    """
    return max(measure(said, true) for true in [text for text in answers if normalised(text)] or [""])
