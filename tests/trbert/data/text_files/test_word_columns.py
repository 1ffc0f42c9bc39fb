"""Files with a word and its tags on each line."""

import gzip

import pytest

from trbert.data.readers import Format
from trbert.data.sources import read_source
from trbert.data.splits import load_splits
from trbert.errors import InputError
from trbert.tasks import TASKS
from trbert.tasks.rows import Columns

TASK = TASKS["tagging"]
FOUR = "-DOCSTART- -X- -X- O\n\nAnn NNP B-NP B-PER\nruns VBZ B-VP O\n\n\nRome NNP B-NP B-LOC\n"
SENTENCES = [["Ann", "runs"], ["Rome"]]


def read(path, text_column=None, label_column=None, format=Format()):  # noqa: B008  it is frozen
    source = read_source(str(path), TASK.columns(text_column, label_column), format)
    (table,) = source.tables.values()
    return table.values, source.notes


def written(tmp_path, text, name="train.conll"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def refusal(*given, **more):
    with pytest.raises(InputError) as found:
        read(*given, **more)
    return str(found.value)


def test_the_first_column_has_the_words_and_the_last_one_the_tags(tmp_path):
    values, notes = read(written(tmp_path, FOUR))
    assert values == {"tokens": SENTENCES, "tags": [["B-PER", "O"], ["B-LOC"]]}
    assert notes == ("train.conll: columns that are not used: '2', '3'",)


def test_columns_are_chosen_by_their_numbers(tmp_path):
    values, _ = read(written(tmp_path, FOUR), "1", "2")
    assert values == {"1": SENTENCES, "2": [["NNP", "VBZ"], ["NNP"]]}


def test_words_are_read_without_their_tags(tmp_path):
    assert read(written(tmp_path, FOUR), None, "")[0] == {"tokens": SENTENCES}
    assert read(written(tmp_path, "Ann\nruns\n\nRome"), None, "")[0] == {"tokens": SENTENCES}


@pytest.mark.parametrize("name", ["train.conll", "train.bio", "train.txt", "train.tsv", "train.CONLL"])
@pytest.mark.parametrize("text", ["Ann\tB\r\nruns\tO\r\n\r\nRome\tB", "Ann  B \n runs O\n \nRome   B\n\n"])
def test_tabs_or_blanks_part_columns_in_files_of_any_such_name(name, text, tmp_path):
    assert read(written(tmp_path, text, name))[0] == {"tokens": SENTENCES, "tags": [["B", "O"], ["B"]]}


def test_a_word_may_have_a_blank_between_tabs_and_begin_like_a_comment(tmp_path):
    assert read(written(tmp_path, "New York\tB\n#rome\tO\n"))[0]["tokens"] == [["New York", "#rome"]]


def test_the_separator_may_be_told(tmp_path):
    values, _ = read(written(tmp_path, "Ann;B\nruns;O\n"), format=Format(separator=";"))
    assert values == {"tokens": [["Ann", "runs"]], "tags": [["B", "O"]]}


def test_a_packed_file_is_read(tmp_path):
    (tmp_path / "train.conll.gz").write_bytes(gzip.compress(FOUR.encode()))
    assert read(tmp_path / "train.conll.gz")[0]["tokens"] == SENTENCES


def test_a_folder_of_such_files_is_a_data_set(tmp_path):
    for name in ("train", "dev", "test"):
        written(tmp_path, FOUR, f"{name}.conll")
    splits = load_splits(str(tmp_path), task=TASK)
    assert splits.labels == ("B-LOC", "B-PER", "O")
    assert len(splits.train) == len(splits.validation) == len(splits.test) == 2


def test_sentences_of_one_document_that_no_empty_line_parts_are_one_row(tmp_path):
    joined = FOUR.replace("O\n\n\nRome", "O\nRome")
    assert read(written(tmp_path, joined))[0]["tokens"] == [["Ann", "runs", "Rome"]]


# CoNLL-U.

UNIVERSAL = """# newdoc id = 1
# text = Don't  go.
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
2.1\tyou\tyou\tPRON\tPRP\t_\t_\t_\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No

# sent_id = 2
1\t#\t#\tSYM\t#\t_\t0\troot\t_\t_
2\tNew York\tNew York\tPROPN\tNNP\t_\t1\tobj\t_\t_
"""
FORMS = [["Do", "n't", "go"], ["#", "New York"]]


def test_words_of_conllu_are_its_forms_and_their_tags_the_universal_ones(tmp_path):
    values, notes = read(written(tmp_path, UNIVERSAL, "train.conllu"))
    assert values == {"tokens": FORMS, "tags": [["AUX", "PART", "VERB"], ["SYM", "PROPN"]]}
    assert notes == (
        "train.conllu: columns that are not used: 'id', 'lemma', 'xpos', 'feats', 'head', 'deprel', 'deps', 'misc'",
    )


def test_other_columns_of_conllu_are_named_or_numbered(tmp_path):
    path = written(tmp_path, UNIVERSAL, "train.conllu")
    assert read(path, None, "xpos")[0]["xpos"] == [["VB", "RB", "VB"], ["#", "NNP"]]
    assert read(path, "lemma", "8")[0] == {
        "lemma": [["do", "not", "go"], ["#", "New York"]],
        "8": [["aux", "advmod", "root"], ["root", "obj"]],
    }
    assert read(path, None, "")[0] == {"tokens": FORMS}


def test_a_column_that_conllu_has_not_is_refused(tmp_path):
    assert refusal(written(tmp_path, UNIVERSAL, "train.conllu"), None, "ner") == (
        "--label-column must be one of id, form, lemma, upos, xpos, feats, head, deprel, deps, misc for train.conllu, "
        "and is 'ner': set it to one of them, or leave it out"
    )


@pytest.mark.parametrize("line", ["1\tAnn\tNNP\n", "Ann\tNNP\tB-PER\n"])
def test_a_file_of_other_columns_under_this_name_is_refused(line, tmp_path):
    assert refusal(written(tmp_path, line, "train.conllu")) == (
        "train.conllu must have the 10 columns of CoNLL-U with tabs between them, and has 3: rename it to end in "
        ".conll if it is another table of words"
    )


# Faults.


def test_a_line_with_another_number_of_columns_is_refused(tmp_path):
    assert refusal(written(tmp_path, "Ann NNP B-PER\nruns O\n")) == (
        "line 2 of train.conll must have 3 columns, as line 1 has, and has 2: write a word with its tags on each line, "
        "with a tab or a blank between two columns, and an empty line between two sentences"
    )


def test_words_without_tags_are_refused(tmp_path):
    assert refusal(written(tmp_path, "Ann\nruns\n")) == (
        "train.conll must have the tag of each word beside it, after a tab or a blank, and has one column alone: add "
        "the tags, or write lists of words and of tags as jsonl or parquet, because a csv file holds no lists"
    )


def test_a_test_file_without_tags_is_not_used(tmp_path):
    written(tmp_path, FOUR)
    written(tmp_path, "Ann\nruns\n", "test.conll")
    source = read_source(str(tmp_path), TASK.columns(), Format())
    assert list(source.tables) == ["train"]
    assert "test is not used: test.conll has no column 'tags'" in source.notes


@pytest.mark.parametrize("name", ["ner_tags", "0", "5"])
def test_a_column_that_is_not_there_is_refused(name, tmp_path):
    assert refusal(written(tmp_path, FOUR), None, name) == (
        "--label-column must be a number from 1 to 4 for train.conll, whose columns have no names, and is "
        f"{name!r}: set it to the number of the column, or leave it out"
    )


def test_an_empty_word_is_refused_by_its_row(tmp_path):
    with pytest.raises(InputError, match=r"^word 1 of row 0 of train.conll must have a character that can be seen"):
        load_splits(str(written(tmp_path, "Ann\tB\n\tO\n")), task=TASK)


def test_a_file_without_a_sentence_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^train.conll must have at least one row, and is empty"):
        load_splits(str(written(tmp_path, "-DOCSTART- O\n\n")), task=TASK)


def test_another_task_says_which_task_reads_such_a_file(tmp_path):
    path = written(tmp_path, FOUR)
    with pytest.raises(InputError) as found:
        read_source(str(path), Columns.named("text", "label"), Format())
    assert str(found.value) == (
        f"data file '{path}' must be a table of texts, and is one of words with a tag each: leave out --task or "
        "pass --task tagging, or rename it to end in .txt if it is a table of texts"
    )


def test_an_unknown_ending_is_refused_with_those_that_are_read(tmp_path):
    assert (
        "must end in .parquet, .csv, .tsv, .txt, .jsonl, .ndjson, .json, .conll, .conllu, .bio, and ends in '.iob'"
        in refusal(written(tmp_path, FOUR, "train.iob"))
    )
