"""Panics of libraries in Rust, and what they print."""

import os

import pytest
import tokenizers

from trbert.tasks.panics import Panicked, panics_told


def panic():
    """Panics as the library does: a template names a special token that is gone."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 0)])
    words.post_processor = processor
    whole = words.to_str()
    start = whole.index('"special_tokens":{')
    damaged = f'{whole[:start]}"special_tokens":{{}}{whole[whole.index("}}", start) + 2 :]}'
    tokenizers.Tokenizer.from_str(damaged).encode("a")


def fail(error):
    os.write(2, b"printed")
    raise error


def test_a_panic_is_an_error_and_prints_nothing(capfd):
    with pytest.raises(Panicked, match=r"^a panic: "), panics_told():
        panic()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "printed"), [(KeyboardInterrupt, "printed"), (SystemExit, "printed"), (KeyError, "")]
)
def test_an_interrupt_and_other_errors_pass(capfd, error, printed):
    with pytest.raises(error), panics_told():
        fail(error)
    assert capfd.readouterr().err == printed


def test_what_is_printed_meanwhile_is_printed_escaped_at_the_end(capfd):
    print("before")
    with panics_told():
        os.write(1, b"ignored \x00 and\n")
        os.write(2, b"a warning \x1b[31m\n")
        assert capfd.readouterr() == ("before\n", "")
    assert capfd.readouterr() == ("ignored \\x00 and\n", "a warning \\x1b[31m\n")
