"""Which output of a head stands for which label of the data."""

import pytest

from trbert.checkpoint.head import label_names, match_labels
from trbert.errors import InputError
from trbert.pretrained import load_pretrained
from trbert.rehearsal import rehearse
from trbert.tasks import TASKS

TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")


def test_the_same_names_in_the_same_order_need_no_note():
    assert match_labels("m", LABELS, LABELS) == ((0, 1, 2), ())


def test_names_in_another_order_are_matched_by_name():
    order, notes = match_labels("m", ("maybe", "no", "yes"), LABELS)
    assert order == (1, 2, 0)
    assert notes == ("labels: matched by name with those of model m, which has them in another order",)


def test_case_and_blanks_may_differ():
    order, notes = match_labels("m", ("NEGATIVE ", "Positive"), ("positive", "negative"))
    assert order == (1, 0)
    assert notes == (
        "labels: matched by name with those of model m: 'positive' is the model's 'Positive', 'negative' is the "
        "model's 'NEGATIVE '",
    )


@pytest.mark.parametrize(
    ("names", "labels"),
    [(("Pos", "POS", "neg"), ("pos", "neg")), (("POS", "neg"), ("pos", "Pos")), (("a", "a", "b"), ("a", "b"))],
)
def test_what_could_be_one_of_several_is_refused(names, labels):
    with pytest.raises(InputError, match="pass --new-head"):
        match_labels("m", names, labels)


def test_an_exact_name_is_taken_before_one_that_is_like_it():
    assert match_labels("m", ("Pos", "pos"), ("pos", "Pos"))[0] == (1, 0)


def test_labels_without_rows_are_named():
    order, notes = match_labels("m", LABELS, ("no", "maybe"))
    assert order == (0, 2)
    assert notes == (
        "labels: model m also knows 'yes', of which the data has no row: it may still predict them; pass --new-head "
        "for a head with the labels of the data alone",
    )


def test_outputs_without_names_are_taken_in_the_order_of_the_data():
    order, notes = match_labels("m", ("LABEL_0", "LABEL_1"), ("a", "b"))
    assert order == (0, 1)
    assert "in the order of the data's: LABEL_0 is 'a', LABEL_1 is 'b'; if that is wrong" in notes[0]
    with pytest.raises(InputError, match="was fine-tuned for 2 labels without names, and the data has"):
        match_labels("m", ("LABEL_0", "LABEL_1"), ("a", "b", "c"))


def test_numbers_as_names_are_refused_with_a_map_to_type():
    with pytest.raises(InputError, match=r"such as --label-map no=NAME,yes=NAME, each NAME one of \['0', '1'\]$"):
        match_labels("m", ("0", "1"), ("no", "yes"))
    assert match_labels("m", ("0", "1"), ("0", "1")) == ((0, 1), ())


def test_a_map_with_blanks_is_quoted():
    with pytest.raises(InputError, match=r"--label-map 'not good=bad'$"):
        match_labels("m", ("bad", "good"), ("not good", "good"))


@pytest.mark.parametrize(
    "numbered",
    [
        {"0": "no", "1": "yes", "2": "maybe"},
        {"1": "no", "2": "yes", "3": "maybe"},
        {"7": "maybe", "0": "no", "2": "yes"},
        ["no", "yes", "maybe"],
        {"no": 0, "yes": 1, "maybe": 2},
    ],
)
def test_names_are_taken_in_the_order_of_their_numbers(edit, numbered):
    found = load_pretrained(edit(id2label=numbered), TASK, LABELS)
    assert found.fine_tuned
    assert found.order == (0, 1, 2)
    assert found.model.config.id2label == dict(enumerate(LABELS))
    assert found.model.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    rehearse(found.model, found.tokenizer, TASK)


def test_without_id2label_the_names_come_from_label2id():
    assert label_names({"id2label": None, "label2id": {"b": 1, "a": 0}}) == ("a", "b")
    assert label_names({"id2label": "nonsense", "label2id": None}) is None
    assert label_names({}) is None


def test_more_or_fewer_names_than_outputs_are_refused(edit):
    for names in (["no", "yes"], ["no", "yes", "maybe", "never"]):
        told = f"as many labels as its head has outputs, and names {len(names)}, while the head has 3: correct id2label"
        with pytest.raises(InputError, match=told):
            load_pretrained(edit(id2label=dict(enumerate(names))), TASK, names)


def test_a_head_without_names_must_have_an_output_for_every_label(edit):
    name = edit(id2label=None, label2id=None)
    assert load_pretrained(name, TASK, LABELS).order == (0, 1, 2)
    with pytest.raises(InputError, match="must have an output for each of the 2 labels of the data, and has 3: pass"):
        load_pretrained(name, TASK, ("a", "b"))


def test_a_model_of_other_order_says_so_to_the_caller(folder):
    found = load_pretrained(str(folder), TASK, ("yes", "no", "maybe"))
    assert found.order == (1, 0, 2)
    assert any("in another order" in note for note in found.notes)
