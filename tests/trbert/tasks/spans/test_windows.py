"""Windows of contexts: how they overlap, where their tokens stand, and which tokens are marked."""

import numpy as np
import pytest
import tokenizers
import transformers

from trbert.errors import InputError
from trbert.tasks.spans.passages import ENDS, NOT_ALLOWED, STARTS, Passage, targets_of
from trbert.tasks.spans.windows import windows_of

UNKNOWN, CLS, SEP = 1, 2, 3
A, B, C, D = range(4, 8)
BOTH, NONE = STARTS + ENDS, NOT_ALLOWED


def test_a_short_context_is_one_document_after_its_question(tokenizer):
    ((window,),) = windows_of(tokenizer, ["a b"], ["c  d"], [11], 16)
    assert window.ids == [CLS, A, B, SEP, C, D, SEP]
    assert window.kinds == [0, 0, 0, 0, 1, 1, 1]
    assert window.places.tolist() == [[0, 0], [0, 0], [0, 0], [0, 0], [0, 1], [3, 4], [0, 0]]


def test_windows_of_a_long_context_overlap_by_half_and_hold_all_of_it(tokenizer):
    # Room for 4 of the 7 tokens, of which 2 are the last ones of the window before.
    (windows,) = windows_of(tokenizer, ["a"], ["a b c d a b c"], [4], 8)
    assert [window.ids[3:-1] for window in windows] == [[A, B, C, D], [C, D, A, B], [A, B, C]]
    assert windows[1].places[3].tolist() == [4, 5]
    assert all(window.ids[:3] == [CLS, A, SEP] for window in windows)


def test_each_question_has_windows_of_its_own(tokenizer):
    found = windows_of(tokenizer, ["a", "a b c", "d"], ["a b c d", "b c d", "a b c d a"], [4, 2, 4], 8)
    assert [len(windows) for windows in found] == [1, 2, 2]
    assert found[1][0].ids == [CLS, A, B, C, SEP, B, C, SEP]


def test_a_slow_tokenizer_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(
        InputError, match=r"the tokenizer must know the characters of each token, and .* does not: pass a"
    ):
        windows_of(tokenizer, ["a"], ["b"], [12], 16)


def test_the_first_and_the_last_token_of_an_answer_are_marked(tokenizer):
    (windows,) = windows_of(tokenizer, ["a"], ["a b c d"], [12], 16)
    assert targets_of(windows, [(2, 5)]).tolist() == [0, NONE, NONE, 0, STARTS, ENDS, 0, NONE]
    assert targets_of(windows, [(2, 3), (2, 5)]).tolist() == [0, NONE, NONE, 0, BOTH, ENDS, 0, NONE]
    # An answer that starts or ends within a blank is that of the tokens that it touches.
    assert targets_of(windows, [(1, 6)]).tolist() == [0, NONE, NONE, 0, STARTS, ENDS, 0, NONE]


def test_no_answer_is_the_first_token_of_the_first_window(tokenizer):
    (windows,) = windows_of(tokenizer, ["a"], ["a b c d a"], [4], 8)
    assert targets_of(windows, []).tolist() == [
        *(BOTH, NONE, NONE, 0, 0, 0, 0, NONE),
        *(NONE, NONE, NONE, 0, 0, 0, NONE),
    ]


def test_an_answer_is_marked_in_each_window_that_holds_the_whole_of_it(tokenizer):
    # Windows a b c d and c d a: c d stands in both, b c in the first one alone.
    (windows,) = windows_of(tokenizer, ["a"], ["a b c d a"], [4], 8)
    assert targets_of(windows, [(4, 7)]).tolist() == [
        *(0, NONE, NONE, 0, 0, STARTS, ENDS, NONE),
        *(NONE, NONE, NONE, STARTS, ENDS, 0, NONE),
    ]
    assert targets_of(windows, [(2, 5)]).tolist() == [
        *(0, NONE, NONE, 0, STARTS, ENDS, 0, NONE),
        *(NONE, NONE, NONE, 0, 0, 0, NONE),
    ]


def test_the_part_of_an_answer_that_a_window_holds_is_not_marked_where_another_one_holds_the_whole(tokenizer):
    # d a begins at the end of the first window.
    (windows,) = windows_of(tokenizer, ["a"], ["a b c d a"], [4], 8)
    assert targets_of(windows, [(6, 9)]).tolist() == [
        *(0, NONE, NONE, 0, 0, 0, 0, NONE),
        *(NONE, NONE, NONE, 0, STARTS, ENDS, NONE),
    ]


def test_an_answer_that_no_window_holds_is_marked_at_its_start_and_at_its_end(tokenizer):
    (windows,) = windows_of(tokenizer, ["a"], ["a b c d a"], [4], 8)
    assert targets_of(windows, [(0, 9)]).tolist() == [
        *(0, NONE, NONE, STARTS, 0, 0, 0, NONE),
        *(NONE, NONE, NONE, 0, 0, ENDS, NONE),
    ]


def test_an_answer_without_a_token_has_no_targets(tokenizer):
    (windows,) = windows_of(tokenizer, ["a"], ["a   b"], [12], 16)
    assert targets_of(windows, [(2, 3)]) is None
    assert targets_of(windows, [(2, 3), (4, 5)]).max() == BOTH


def test_no_answer_starts_or_ends_at_blanks(tokenizer):
    # As tokenizers of bytes do, the pieces hold the blanks too: "a", two line ends, "b", a blank without width.
    pieces = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\n+|\u200b"), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pieces
    ((window,),) = windows_of(tokenizer, ["a"], ["a\n\nb\u200b"], [12], 16)
    assert window.ids == [CLS, A, SEP, A, UNKNOWN, B, UNKNOWN, SEP]
    assert window.places.tolist() == [[0, 0]] * 3 + [[0, 1], [0, 0], [3, 4], [0, 0], [0, 0]]
    assert targets_of([window], [(0, 4)]).tolist() == [0, NONE, NONE, STARTS, NONE, ENDS, NONE, NONE]


def test_a_span_has_no_blanks_around_it():
    # As tokenizers give places whose pieces begin with a blank.
    passage = Passage("so  it is ", (), np.array([[0, 2], [2, 6], [6, 10]], dtype=np.int32))
    assert passage.span(1, 2) == (4, 9)
    assert passage.context[4:9] == "it is"
