"""The tasks for which a checkpoint's own head may have been trained."""

from dataclasses import dataclass

from trbert.checkpoint.config import read_config
from trbert.checkpoint.place import Place
from trbert.checkpoint.quiet import quiet
from trbert.errors import InputError
from trbert.tasks import TASKS, Task


@dataclass(frozen=True, slots=True)
class Trained:
    """The head of a fine-tuned checkpoint.

    Attributes:
        model: the model, as the user calls it.
        kind: the class of its head, such as "BertForTokenClassification".
        tasks: the tasks for which it may have been trained, in the order of `TASKS`; there is at least one.
    """

    model: str
    kind: str
    tasks: tuple[Task, ...]


def trained_head(place: Place) -> Trained | None:
    """Returns the head of a checkpoint; None where it has none of a known task, as a model that was only pretrained.

    Only its config is read.

    Args:
        place: where the model is.

    Raises:
        ModelNotFound: There is no such model on the hub.
        DamagedCheckpoint: config.json cannot be read, or its values do not fit together.
        UnsupportedModel: The model is not an encoder of a known family.
    """
    with quiet(), place.read():
        config, _, _ = read_config(place)
    for kind in config.architectures or ():
        tasks = tuple(task for task in TASKS.values() if _may_be_of(task, kind, config))
        if tasks:
            return Trained(place.name, kind, tasks)
    return None


def may_have_learned(task: Task, config: object) -> bool:
    """Returns whether a head with this config may have been trained for a task that uses such a head."""
    try:
        task.check_config(config)
    except InputError:
        return False
    return True


def _may_be_of(task: Task, kind: str, config: object) -> bool:
    own = task.head.removeprefix("AutoModel")
    return bool(own) and kind.endswith(own) and may_have_learned(task, config)
