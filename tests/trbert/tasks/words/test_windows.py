"""How rows of words become documents."""

import pytest
import tokenizers
import transformers

from trbert.errors import InputError
from trbert.tasks.words.windows import windows_of

UNKNOWN, CLS, SEP, A, B, C, D = 1, 2, 3, 4, 5, 6, 7


@pytest.fixture
def of_bytes():
    """A tokenizer of bytes, as RoBERTa's: a word after a blank is another token than a word at the beginning."""
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1, "Ġa": 2}, unk_token="?"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, unk_token="?")


@pytest.fixture(params=[False, True])
def of_pieces(request):
    """A tokenizer of bytes with one token for Ġabc and three for abc. It may put a blank before a text."""
    names = ["<s>", "</s>", "a", "b", "c", "Ġ", "Ġa", "Ġab", "Ġabc"]
    merges = [("Ġ", "a"), ("Ġa", "b"), ("Ġab", "c")]
    model = tokenizers.Tokenizer(tokenizers.models.BPE({name: index for index, name in enumerate(names)}, merges))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=request.param)
    model.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="<s>", eos_token="</s>", add_prefix_space=request.param
    )


def test_a_short_row_is_one_document_in_which_each_word_has_its_first_token(tokenizer):
    ((window,),) = windows_of(tokenizer, [["a", "b"]], 8)
    assert window.ids == [CLS, A, B, SEP]
    assert window.first == {0: 1, 1: 2}
    assert not window.cut


def test_the_first_token_of_a_word_stands_for_it(tokenizer):
    ((window,),) = windows_of(tokenizer, [["a.b", "c"]], 8)
    assert window.ids == [CLS, A, UNKNOWN, B, C, SEP]
    assert window.first == {0: 1, 1: 4}


def test_a_long_row_is_parted_between_words_and_loses_none(tokenizer):
    (parted, (alone,)) = windows_of(tokenizer, [["a", "b.c", "d", "a", "b"], ["d"]], 6)
    assert [each.ids for each in parted] == [[CLS, A, B, UNKNOWN, C, SEP], [CLS, D, A, B, SEP]]
    assert [each.first for each in parted] == [{0: 1, 1: 2}, {2: 1, 3: 2, 4: 3}]
    assert not any(each.cut for each in parted)
    assert alone.ids == [CLS, D, SEP]


def test_a_word_with_more_tokens_than_a_document_is_cut_alone(tokenizer):
    (parted,) = windows_of(tokenizer, [["a", "b.c.d", "d"]], 5)
    assert [each.ids for each in parted] == [[CLS, A, SEP], [CLS, B, UNKNOWN, C, SEP], [CLS, D, SEP]]
    assert [each.first for each in parted] == [{0: 1}, {1: 1}, {2: 1}]
    assert [each.cut for each in parted] == [False, True, False]


def test_a_word_without_a_token_has_no_place(tokenizer):
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Replace("b", "")
    ((window,),) = windows_of(tokenizer, [["a", "b", "c"]], 8)
    assert window.ids == [CLS, A, C, SEP]
    assert window.first == {0: 1, 2: 2}


def test_words_are_read_as_they_stand_in_a_text(of_bytes):
    ((window,),) = windows_of(of_bytes, [["a", "a", "a"]], 8)
    assert window.ids == of_bytes("a a a")["input_ids"] == [1, 2, 2]


def test_a_long_row_of_bytes_keeps_the_blanks_between_its_documents(of_pieces):
    # Room for 4 tokens: abc and Ġabc, and then four times Ġabc. With a blank before the text, all words are Ġabc.
    words = ["abc"] * 7
    (parted,) = windows_of(of_pieces, [words], 6)
    if of_pieces.add_prefix_space:
        assert [each.ids for each in parted] == [[0, 8, 8, 8, 8, 1], [0, 8, 8, 8, 1]]
        assert [sorted(each.first) for each in parted] == [[0, 1, 2, 3], [4, 5, 6]]
    else:
        assert [each.ids for each in parted] == [[0, 2, 3, 4, 8, 1], [0, 8, 8, 8, 8, 1], [0, 8, 1]]
        assert [sorted(each.first) for each in parted] == [[0, 1], [2, 3, 4, 5], [6]]
    assert not any(each.cut for each in parted)


@pytest.mark.parametrize("most", range(3, 12))
def test_no_document_of_several_words_is_cut(of_pieces, most):
    rows = [["abc", "a", "cab", "abc", "bb", "abcabc"], ["cc", "abc"] * 4]
    for row, parted in zip(rows, windows_of(of_pieces, rows, most), strict=True):
        assert sorted(word for each in parted for word in each.first) == list(range(len(row)))
        assert all(len(each.ids) <= most for each in parted)
        assert all(len(each.first) == 1 for each in parted if each.cut)


def test_room_for_a_token_is_asked_for(tokenizer):
    with pytest.raises(InputError, match=r"^max_length must be more than the 2 special tokens, and is 2$"):
        windows_of(tokenizer, [["a"]], 2)


def test_a_tokenizer_that_does_not_know_the_words_of_its_tokens_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(InputError, match=r"^the tokenizer must know the word of each token, and .* does not: pass"):
        windows_of(tokenizer, [["a"]], 8)
