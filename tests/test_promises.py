"""Every sentence of docs/security.md and docs/reliability.md that promises something names a test, which exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("security", "reliability")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows(page):
    """Returns the rows of a page's tables, each as its cells; without the heads of the tables."""
    lines = (ROOT / "docs" / f"{page}.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[1] != "its test" and not set(row[0]) <= set("-")]


@pytest.mark.parametrize("page", PAGES)
def test_each_promise_is_a_row_with_a_test(page):
    assert len(rows(page)) > 10
    for sentence, test, *more in rows(page):
        assert not more, sentence
        assert sentence.endswith("."), sentence
        assert TEST.fullmatch(test), f"{sentence!r} names no test, and has {test!r}"


@pytest.mark.parametrize("page", PAGES)
def test_the_test_of_each_promise_exists(page):
    for sentence, test in rows(page):
        file, name = TEST.fullmatch(test).groups()
        assert (ROOT / file).is_file(), f"{sentence!r}: there is no {file}"
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{sentence!r}: no {test}"
