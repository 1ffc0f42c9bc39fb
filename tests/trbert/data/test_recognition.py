"""Which task data are for, where the user names none."""

import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from trbert.checkpoint.trained import Trained
from trbert.data.readers import Format
from trbert.data.splits import load_inputs, load_splits
from trbert.errors import InputError
from trbert.tasks import TASKS
from trbert.tasks.rows import Columns

WORDS = {"tokens": ["Ann", "runs"], "tags": ["B-PER", "O"]}


def write(tmp_path, *rows, name="a.jsonl"):
    (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows))
    return str(tmp_path / name)


def texts(*labels, column="label"):
    return [{"text": f"text {number}", column: label} for number, label in enumerate(labels)]


def found(source, head=None, **more):
    splits = load_splits(source, head=head, **more)
    return splits.task.name, splits.why


def refusal(source, head=None, **more):
    with pytest.raises(InputError) as caught:
        load_splits(source, head=head, **more)
    return str(caught.value)


def head_of(*names, kind="BertForSequenceClassification"):
    return Trained("my-model", kind, tuple(TASKS[name] for name in names))


# By the labels.


@pytest.mark.parametrize(
    ("labels", "task", "why"),
    [
        (["a", "b"], "classification", "column 'label' of a.jsonl has a label for each row"),
        ([True, False], "classification", "column 'label' of a.jsonl has a label for each row"),
        ([0, 1], "classification", "column 'label' has a label for each row"),
        ([0.0, 1.0], "classification", "column 'label' has a label for each row"),
        (["1", "2"], "classification", "column 'label' has a label for each row"),
        ([["a"], ["b", "a"], []], "multi_label", "column 'label' of a.jsonl has lists"),
        ([1, 2.5], "regression", "column 'label' of a.jsonl has numbers with decimals, such as 2.5"),
        (["1", "-2.5"], "regression", "column 'label' of a.jsonl has numbers with decimals, such as '-2.5'"),
        (["1.5", "x"], "classification", "column 'label' has a label for each row"),
    ],
)
def test_the_labels_tell_the_task(labels, task, why, tmp_path):
    assert found(write(tmp_path, *texts(*(labels * 10)))) == (task, why)


def test_one_bad_label_in_twenty_does_not_hide_what_the_others_are(tmp_path):
    numbers = write(tmp_path, *texts(*([1.5, 2] * 10), "none"))
    assert found(numbers, skip_bad_rows=True)[0] == "regression"
    assert found(write(tmp_path, *texts(*([["a"], ["b"]] * 10), "a")), skip_bad_rows=True)[0] == "multi_label"


def test_numbers_that_a_source_names_are_classes(tmp_path):
    write(tmp_path, *texts(*([0, 1] * 10)), name="train.jsonl")
    (tmp_path / "labels.json").write_text('["no", "yes"]')
    assert found(str(tmp_path)) == ("classification", "labels.json names the classes")


def test_the_values_of_the_named_columns_decide(tmp_path):
    pairs = [{"a": "x", "b": "y", "score": number / 3} for number in range(20)]
    assert found(write(tmp_path, *pairs), text_column="a,b", label_column="score")[0] == "regression"
    own = [{"w": WORDS["tokens"], "t": WORDS["tags"]}] * 20
    task, why = found(write(tmp_path, *own), text_column="w", label_column="t")
    assert (task, why) == ("tagging", "columns 'w' and 't' of a.jsonl have lists")


def test_a_column_for_each_label_is_several_labels(tmp_path):
    flags = [{"text": f"t{row}", "toxic": row % 2, "threat": row % 3 == 0} for row in range(20)]
    splits = load_splits(write(tmp_path, *flags), label_column="toxic,threat")
    assert (splits.task.name, splits.why) == ("multi_label", "--label-column names several columns")
    assert splits.labels == ("toxic", "threat")
    told = dict(zip(splits.train.inputs[0], splits.train.targets.tolist(), strict=True))
    assert all(told[f"t{row}"] == [row % 2, row % 3 == 0] for row in range(20) if f"t{row}" in told)


# By the names of the columns.


def test_the_names_of_the_columns_tell_the_task(tmp_path):
    assert found(write(tmp_path, *[WORDS] * 20)) == ("tagging", "a.jsonl has the columns 'tokens', 'tags'")


@pytest.mark.parametrize("column", ["ner_tags", "pos_tags"])
def test_other_names_of_columns_are_known_too_and_are_read(column, tmp_path):
    rows = [{"id": "1", "tokens": WORDS["tokens"], column: WORDS["tags"]}] * 20
    splits = load_splits(write(tmp_path, *rows))
    assert splits.why == f"a.jsonl has the columns 'tokens', '{column}'"
    assert splits.columns == Columns(("tokens",), column, words=True)
    both = [{**rows[0], "other": ["x", "y"]}] * 20
    assert load_splits(write(tmp_path, *both), label_column="other").columns.target == "other"


@pytest.mark.parametrize(
    ("row", "task"),
    [
        (WORDS, "tagging"),
        ({"article": "a", "question": "b", "options": ["c", "d"], "answer": "A"}, "multiple_choice"),
        ({"question": "a", "context": "b c", "answers": {"text": ["c"], "answer_start": [2]}}, "question_answering"),
    ],
)
def test_a_table_that_is_written_by_its_columns_may_hold_lists_and_objects(row, task, tmp_path):
    rows = [
        {name: value + "abcdefghij"[each] if name == "article" else value for name, value in row.items()}
        for each in range(10)
    ]
    (tmp_path / "a.json").write_text(json.dumps({name: [each[name] for each in rows] for name in row}))
    assert found(str(tmp_path / "a.json"))[0] == task


def test_a_text_and_its_label_come_before_other_columns(tmp_path):
    rows = [{**row, **WORDS} for row in texts(*(["a", "b"] * 10))]
    assert found(write(tmp_path, *rows))[0] == "classification"


def test_a_file_with_a_word_on_each_line_is_of_words(tmp_path):
    (tmp_path / "a.conll").write_text("Ann B-PER\nruns O\n\n" * 20)
    assert found(str(tmp_path / "a.conll")) == ("tagging", "a.conll has a word with its tags on each line")


def test_columns_that_no_task_knows_are_refused_with_those_that_are_there(tmp_path):
    assert refusal(write(tmp_path, {"body": "x", "kind": "a"})) == (
        "a.jsonl must have the column 'text', and has 'body', 'kind': set --text-column to one of them"
    )


def test_a_task_without_labels_is_never_taken_unasked(tmp_path):
    assert refusal(write(tmp_path, {"text": "x"}, {"text": "y"})) == (
        "a.jsonl must have the column 'label', and has 'text' alone: add the labels as a column; or pass --task "
        "embedding, which reads no labels"
    )


def test_a_task_without_labels_is_not_advised_where_columns_are_named_that_it_refuses(tmp_path):
    told = refusal(write(tmp_path, {"text": "x", "kind": "a"}), label_column="label")
    assert told.endswith("and has 'text', 'kind': set --label-column to one of them")


def test_a_task_that_is_known_by_its_columns_is_taken_before_the_labels_are_looked_at(tmp_path):
    rows = [{"query": f"q{row // 2}", "document": f"d{row}", "label": row % 2} for row in range(40)]
    why = "a.jsonl has the columns 'query', 'document', 'label'"
    assert found(write(tmp_path, *rows)) == ("reranking", why)
    assert found(write(tmp_path, *rows), text_column="query,document") == ("reranking", why)
    assert found(write(tmp_path, *rows), text_column="document")[0] == "classification"


@pytest.mark.parametrize("first", [{}, {"article": "It rains."}])
def test_multiple_choice_is_known_with_an_article_or_without(first, tmp_path):
    rows = [{**first, "question": f"q{row}", "options": ["x", "y"], "answer": "AB"[row % 2]} for row in range(40)]
    columns = ", ".join(f"'{name}'" for name in rows[0])
    assert found(write(tmp_path, *rows)) == ("multiple_choice", f"a.jsonl has the columns {columns}")


def test_questions_with_their_contexts_and_answers_are_known_by_their_columns(tmp_path):
    rows = [{"question": f"q{row}", "context": f"w{row} x", "answers": "x"} for row in range(40)]
    assert found(write(tmp_path, *rows)) == (
        "question_answering",
        "a.jsonl has the columns 'question', 'context', 'answers'",
    )


@pytest.mark.parametrize(
    "answer",
    [{"text": ["x"], "answer_start": [3]}, {"text": "x", "answer_start": 3}, [{"text": "x", "answer_start": 3}]],
)
def test_answers_with_places_are_those_of_question_answering_in_any_column(answer, tmp_path):
    rows = [{"q": f"q{row}", "c": f"w{row % 10} x", "said": answer} for row in range(40)]
    rows += [{"q": "r", "c": f"v{row}", "said": []} for row in range(40)]
    told = found(write(tmp_path, *rows), text_column="q,c", label_column="said")
    assert told == ("question_answering", "column 'said' of a.jsonl has answers with their places")


# By the model's head.


def test_the_head_decides_where_the_labels_may_be_of_several_tasks(tmp_path):
    ratings = write(tmp_path, *texts(*([1, 2, 3] * 10)))
    why = "the head of model my-model is a BertForSequenceClassification"
    assert found(ratings, head_of("regression")) == ("regression", why)
    assert found(ratings, head_of("classification", "multi_label")) == ("classification", why)


def test_the_labels_decide_among_the_tasks_of_the_head(tmp_path):
    lists = write(tmp_path, *texts(*([["a"], ["b"]] * 10)))
    assert found(lists, head_of("classification", "multi_label"))[0] == "multi_label"


def test_a_head_that_reads_other_columns_is_followed_where_they_are_there(tmp_path):
    rows = [{"tokens": WORDS["tokens"], "ner_tags": WORDS["tags"]}] * 20
    head = head_of("tagging", kind="BertForTokenClassification")
    assert found(write(tmp_path, *rows), head)[0] == "tagging"


def test_a_head_that_reads_other_columns_than_there_are_is_refused(tmp_path):
    head = head_of("tagging", kind="BertForTokenClassification")
    assert refusal(write(tmp_path, *texts(*(["a", "b"] * 10))), head) == (
        "model my-model must be of the task of the data, and its head (BertForTokenClassification) is for tagging, "
        "while a.jsonl has the columns 'text', 'label', which is for classification: pass --new-head to take its "
        "encoder with a new head, name the task with --task, or set --data to other data"
    )


def test_the_columns_of_the_heads_own_task_are_read_where_others_are_there_too(tmp_path):
    rows = [{**row, **WORDS} for row in texts(*(["a", "b"] * 10))]
    head = head_of("tagging", kind="BertForTokenClassification")
    assert found(write(tmp_path, *rows), head) == ("tagging", "a.jsonl has the columns 'tokens', 'tags'")


def test_columns_that_the_heads_task_cannot_read_are_refused(tmp_path):
    pairs = write(tmp_path, *[{"a": "x", "b": "y", "label": row % 2} for row in range(20)])
    head = head_of("tagging", kind="BertForTokenClassification")
    told = refusal(pairs, head, text_column="a,b")
    assert "is for tagging, while column 'label' has a label for each row, which is for classification" in told


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "json"])
def test_columns_are_known_in_files_of_any_kind(suffix, tmp_path):
    queries = [f"q{row // 2}" for row in range(40)]
    rows = {"query": queries, "document": [f"d{row}" for row in range(40)], "label": ["0", "1"] * 20}
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(rows), path)
    elif suffix == "json":
        path.write_text(json.dumps([dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]))
    else:
        between = {"csv": ",", "tsv": "\t"}[suffix]
        path.write_text("\n".join(between.join(row) for row in (tuple(rows), *zip(*rows.values(), strict=True))))
    assert found(str(path))[0] == "reranking"


def test_a_test_file_that_is_named_first_does_not_hide_the_columns(tmp_path):
    source = ",".join(f"{split}={write(tmp_path, *[WORDS] * 20, name=f'{split}.jsonl')}" for split in ("test", "train"))
    assert found(source)[0] == "tagging"


@pytest.mark.parametrize(
    ("labels", "tasks", "why"),
    [
        (["a", "b"], ["regression"], "column 'label' of a.jsonl has a label for each row, which is for classification"),
        ([["a"], ["b"]], ["regression"], "column 'label' of a.jsonl has lists, which is for multi_label"),
        ([0.5, 1.5], ["classification", "multi_label"], "such as 0.5, which is for regression"),
    ],
)
def test_a_head_of_another_task_than_the_labels_is_refused(labels, tasks, why, tmp_path):
    told = refusal(write(tmp_path, *texts(*(labels * 10))), head_of(*tasks))
    assert f"is for {' or '.join(tasks)}, while" in told
    assert why in told
    assert "pass --new-head" in told


def test_a_named_task_asks_neither_the_head_nor_the_data(tmp_path):
    ratings = write(tmp_path, *texts(*(["0.5", "1.5"] * 10)))
    assert found(ratings, head_of("regression"), task=TASKS["classification"]) == ("classification", "")


@pytest.mark.parametrize(
    ("task", "row", "told"),
    [
        (
            "tagging",
            {"text": "a b", "label": "A"},
            "a.jsonl must have the column 'tokens', and has 'text', 'label': set --text-column to a column with a list "
            "of words in each row; or pass --task classification, whose columns are there",
        ),
        (
            "embedding",
            {"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": [0]}},
            "a.jsonl must have the column 'text', and has 'question', 'context', 'answers' (did you mean 'context'?): "
            "set --text-column to one of them; or pass --task question_answering, whose columns are there",
        ),
    ],
)
def test_data_of_another_task_than_the_named_one_are_told_with_that_task(tmp_path, task, row, told):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        load_splits(str(path), task=TASKS[task])


def test_the_packaged_pages_are_refused_for_a_task_that_reads_no_single_texts(monkeypatch):
    monkeypatch.setattr("trbert.data.sources.documentation_pages", lambda: [])
    told = "--data must have columns such as 'tokens', and is the packaged pages, .*: pass --data with rows of yours"
    with pytest.raises(InputError, match=f"^{told}$"):
        load_inputs("pages", task=TASKS["tagging"], text_column=None, format=Format(), rows=1)
