"""Reads the JSON of SQuAD, v1.1 and v2.0, as a table of questions, contexts and answers."""

from collections.abc import Iterator, Mapping
from typing import Any

from trbert.errors import InputError
from trbert.wording import shown


def is_squad(value: Mapping[str, Any]) -> bool:
    """Returns whether a JSON object has the form of SQuAD: `{"data": [{"paragraphs": [...]}, ...]}`."""
    articles = value.get("data")
    return isinstance(articles, list) and any(isinstance(each, dict) and "paragraphs" in each for each in articles)


def squad_rows(value: Mapping[str, Any], origin: str) -> list[dict[str, Any]]:
    """Returns a row for each question, with its context, its answers, its id and the title of its article.

    A question that is marked as impossible has no answers. One that says nothing of answers has None.

    Args:
        value: a JSON object for which `is_squad` is True.
        origin: the name of the file, for messages.

    Raises:
        InputError: A part of it is not of the form of SQuAD.
    """
    rows: list[dict[str, Any]] = []
    for article, where in _objects(value["data"], f"article {{}} of {origin}"):
        for paragraph, there in _objects(article.get("paragraphs"), f"paragraph {{}} of {where}"):
            for asked, _ in _objects(paragraph.get("qas"), f"question {{}} of {there}"):
                rows.append(
                    {
                        "question": asked.get("question"),
                        "context": paragraph.get("context"),
                        "answers": [] if asked.get("is_impossible") is True else asked.get("answers"),
                        "id": asked.get("id"),
                        "title": article.get("title"),
                    }
                )
    return rows


def _objects(values: Any, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields the objects of a list, each with the name of its place.

    Args:
        values: the list.
        where: the names of the places, with {} for the number.
    """
    if not isinstance(values, list):
        what, _, holder = where.partition(" {} of ")
        raise InputError(
            f"{holder} must have a list of every {what}, as SQuAD's files have, and has {shown(values)}: correct the "
            "file"
        )
    for number, each in enumerate(values):
        name = where.format(number)
        if not isinstance(each, dict):
            raise InputError(f"{name} must be an object, as in SQuAD's files, and is {shown(each)}: correct the file")
        yield each, name
