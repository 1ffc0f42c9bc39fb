"""Entities in a sequence of tags: the schemes BIO, IOB1, BIOES and BILOU, and the F1 score that seqeval gives."""

from collections.abc import Sequence

OUTSIDE = "O"
_ALIKE = {"L": "E", "U": "S"}
"""BILOU writes L for the end of an entity and U for one of a single word, where BIOES writes E and S."""
_BARE = frozenset("BIESLUO")

Entity = tuple[str, int, int]
"""The type of an entity, and the places of its first and of its last word."""


def follows_scheme(tags: Sequence[str]) -> bool:
    """Returns whether these different tags mark entities: there is an O, and another tag begins or continues an entity.

    Example:
        >>> follows_scheme(["O", "B-PER", "I-PER"]), follows_scheme(["NOUN", "VERB"])
        (True, False)
    """
    marks = [tag for tag in tags if tag != OUTSIDE]
    return OUTSIDE in tags and (any(tag[:2] in ("B-", "I-", "S-", "U-") for tag in marks) or _is_bare(marks))


def misfit(tags: Sequence[str]) -> str | None:
    """Returns the first of these different tags that does not fit the scheme of the others; None where all fit.

    A tag of an entity is a letter of the scheme, a hyphen and a type. In a set without types it is a letter alone. No
    scheme has both ways to write the end of an entity (E and L), or one of a single word (S and U).

    Example:
        >>> misfit(["O", "B-PER", "PER"]), misfit(["O", "B-PER", "E-PER", "U-PER"])
        ('PER', 'U-PER')
    """
    marks = [tag for tag in tags if tag != OUTSIDE]
    others = [tag for tag in marks if tag[:1] in _ALIKE]
    if others and {tag[:1] for tag in marks} & {*_ALIKE.values()}:
        return others[0]
    if _is_bare(marks):
        return None
    return next(
        (tag for tag in marks if not (tag[:1] in _BARE - {OUTSIDE} and tag[1:2] == "-" and tag[2:].strip())), None
    )


def scheme_of(sequences: Sequence[Sequence[str]]) -> str:
    """Returns the name of the scheme of these sequences: BIO, IOB1, BIOES or BILOU.

    In IOB1 a tag B- stands only between two entities of the same type that touch. In BIO each entity begins with B-.

    Example:
        >>> scheme_of([["I-PER", "O", "I-LOC", "B-LOC"]])
        'IOB1'
    """
    letters = {tag[:1] for tags in sequences for tag in tags}
    if letters & {"L", "U"}:
        return "BILOU"
    if letters & {"E", "S"}:
        return "BIOES"
    begun = sum(_begins_alone(before, tag) for before, tag in _neighbours(sequences))
    return "BIO" if begun or "I" not in letters else "IOB1"


def orphans(tags: Sequence[str]) -> int:
    """Returns how many words continue an entity that no tag begins: I- or E- after O, or after another type.

    Example:
        >>> orphans(["O", "I-PER", "I-PER", "B-LOC", "I-PER"])
        2
    """
    return sum(
        _letter(tag) in "IE" and (_letter(before) in "OES" or before[1:] != tag[1:])
        for before, tag in _neighbours([tags])
    )


def entities(tags: Sequence[str]) -> set[Entity]:
    """Returns the entities of a sequence of tags, as seqeval 1.2 and conlleval find them in their default mode.

    An entity that no tag begins counts from its first word on. So one rule serves BIO, IOB1 and BIOES.

    Example:
        >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC"]))
        [('LOC', 3, 3), ('PER', 0, 1)]
    """
    found: set[Entity] = set()
    before, kind_before, start = OUTSIDE, "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        letter, kind = _letter(tag), "" if tag == OUTSIDE else tag[2:]
        if before != OUTSIDE and (before in "ES" or letter in "BSO" or kind != kind_before):
            found.add((kind_before, start, place - 1))
        if letter != OUTSIDE and (letter in "BS" or before in "OES" or kind != kind_before):
            start = place
        before, kind_before = letter, kind
    return found


def f1(right: int, predicted: int, true: int) -> float:
    """Returns the harmonic mean of precision and recall; 0 where there is no entity at all, as seqeval does.

    Args:
        right: the number of entities that were predicted and are true.
        predicted: the number of entities that were predicted.
        true: the number of entities that are true.

    Example:
        >>> f1(right=1, predicted=2, true=2)
        0.5
    """
    return 2 * right / (predicted + true) if predicted + true else 0.0


def _letter(tag: str) -> str:
    return _ALIKE.get(tag[:1], tag[:1])


def _is_bare(marks: Sequence[str]) -> bool:
    """Returns whether tags are the letters of a scheme alone, without types."""
    return bool({"B", "I"} & set(marks)) and _BARE.issuperset(marks)


def _neighbours(sequences: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Returns each tag together with the tag before it, which is O for the first word."""
    return [pair for tags in sequences for pair in zip([OUTSIDE, *tags], tags, strict=False)]


def _begins_alone(before: str, tag: str) -> bool:
    """Returns whether a tag is a B- that does not part two entities of the same type."""
    return tag[:1] == "B" and (before == OUTSIDE or before[1:] != tag[1:])
