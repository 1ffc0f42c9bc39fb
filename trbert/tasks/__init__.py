"""Tasks: what differs between kinds of tasks. There is an interface, and a file for each kind. `TASKS` lists them."""

from trbert.errors import InputError
from trbert.tasks.classification import Classification
from trbert.tasks.multi_label import MultiLabel
from trbert.tasks.multiple_choice import MultipleChoice
from trbert.tasks.ranking.reranking import ListwiseReranking, Reranking
from trbert.tasks.regression import Regression
from trbert.tasks.spans.question_answering import QuestionAnswering
from trbert.tasks.tagging import Tagging
from trbert.tasks.task import Task
from trbert.tasks.vectors.embedding import Embedding

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Classification(),
        MultiLabel(),
        Regression(),
        Tagging(),
        Reranking(),
        ListwiseReranking(),
        QuestionAnswering(),
        MultipleChoice(),
        Embedding(),
    )
}


def task_of(name: str) -> Task:
    """Returns the task of this name.

    Raises:
        InputError: There is no such task.
    """
    if name not in TASKS:
        raise InputError(f"task must be one of {', '.join(TASKS)}, and is {name!r}: leave it out, and it is found")
    return TASKS[name]


__all__ = ["TASKS", "Task", "task_of"]
