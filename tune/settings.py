"""Every setting of a run, in frozen dataclasses that check their values. They are saved with a run as JSON."""

import dataclasses
import difflib
import math
import re
import types
import typing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from trbert.errors import InputError
from trbert.limits import MAX_SIZE, parse_size


def _setting(default: Any, help: str) -> Any:
    """Returns a field with a help text. The text is the setting's only documentation; `--help` and the docs show it."""
    return field(default=default, metadata={"help": help})


def _check(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise InputError(f"{name} must be {rule}, and is {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Where documents come from."""

    source: str = _setting("pages", "hub name, folder or files (csv, jsonl, parquet); 'pages' are the packaged pages")
    text_column: str | None = _setting(
        None,
        "column of the texts, or columns with commas between them, such as question,sentence for pairs; when unset "
        "those that docs/tasks.md has for the task, such as text",
    )
    unlabelled: tuple[str, ...] = _setting(
        (),
        "further texts without labels: files (csv, tsv, jsonl, parquet, or txt with a text on each line), folders or "
        "hub names, with commas between them; the teacher judges them, and models learn its answers",
    )
    label_column: str | None = _setting(
        None,
        "column of the labels, tags or answers; when unset the one that docs/tasks.md has for the task, such as label; "
        "several columns of 0 and 1, such as toxic,threat, where each label has one",
    )
    label_map: str | None = _setting(
        None, "new names for labels, as old=new,old=new or as a JSON file with an object of them"
    )
    encoding: str | None = _setting(
        None, "encoding of the characters of text files, such as cp1252; UTF-8 or UTF-16 when unset"
    )
    separator: str | None = _setting(
        None, "what separates the columns of csv files, such as ';' or 'tab'; found from the header when unset"
    )
    header: bool = _setting(
        True, "whether the first row of a csv file names the columns; if not, the columns are named 1, 2 and so on"
    )
    max_size: str = _setting(
        MAX_SIZE, "most memory that the data may take, such as 500MB or 8GB; what needs more is refused"
    )
    drop_duplicates: bool = _setting(False, "whether to keep one row of each text, and none of train in the others")
    skip_bad_rows: bool = _setting(False, "whether rows that cannot be read are left out and counted, and not refused")
    protect: bool = _setting(
        True, "whether no token of the question, or of the query, is dropped, if the task has one; see docs/tasks.md"
    )
    max_length: int = _setting(256, "most tokens of a document, special tokens included")
    train_rows: int | None = _setting(None, "training rows to use, drawn with the seed; all when unset")
    validation_rows: int = _setting(
        1000, "most validation rows; taken from the training rows if the data have no validation split"
    )
    test_rows: int | None = _setting(None, "test rows to report on; all when unset")

    def __post_init__(self) -> None:
        _check(self.source.strip() != "", "--data", "a name, a folder or files", self.source)
        named = all(each.strip() for each in self.unlabelled)
        _check(named, "--unlabelled", "names, folders or files with commas between them", self.unlabelled)
        parse_size(self.max_size)
        _check(self.max_length > 2, "data.max_length", "more than 2 tokens", self.max_length)
        for name in ("train_rows", "test_rows"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"data.{name}", "a positive number or unset", value)
        _check(self.validation_rows > 0, "data.validation_rows", "positive", self.validation_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings:
    """Stage 1: the unreduced model is fine-tuned."""

    epochs: float = _setting(4.0, "passes over the training rows")
    batch_size: int = _setting(16, "documents in each step")
    learning_rate: float = _setting(1e-4, "highest learning rate: it rises to this, and then falls linearly to 0")
    probe_documents: int = _setting(
        1000,
        "documents on which the last layer of a new head is fitted while the encoder is frozen, before fine-tuning; 0 "
        "leaves it out",
    )
    max_length: int | None = _setting(None, "most tokens that the teacher reads; data.max_length when unset")

    def __post_init__(self) -> None:
        longer = self.max_length is None or self.max_length > 2
        _check(longer, "teacher.max_length", "more than 2 tokens or unset", self.max_length)
        _check(self.epochs > 0, "teacher.epochs", "positive", self.epochs)
        _check(self.batch_size > 0, "teacher.batch_size", "positive", self.batch_size)
        _check(self.learning_rate > 0, "teacher.learning_rate", "positive", self.learning_rate)
        _check(self.probe_documents >= 0, "teacher.probe_documents", "0 or more", self.probe_documents)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectSettings:
    """Stage 2: the encoder is frozen, and the policy learns by reinforcement."""

    points: tuple[int, ...] | None = _setting(
        None, "reduction points, as rising layer indices; (1, L//2) of L layers when unset"
    )
    penalty: float | None = _setting(
        None,
        "price of an unreduced document in the reward, in nats; when unset 1, or a third of what the teacher knows of "
        "a target if that is more, but at most all of it",
    )
    keep_ratios: tuple[float, ...] | None = _setting(
        None, "fraction of the tokens that each point keeps free of charge; 0 when unset"
    )
    price: Literal["flops", "latency", "tokens"] = _setting(
        "flops",
        "what the penalty prices: 'flops', 'latency' (measured time) or 'tokens' (kept tokens, as the paper does)",
    )
    latency_table: str | None = _setting(
        None,
        "latency.json that 'trbert bench' wrote on the machine that will serve the model; when unset this machine is "
        "timed",
    )
    documents: int = _setting(6000, "documents to train the policy on; a document counts again in each epoch")
    samples: int = _setting(8, "sampled trajectories of each document")
    step_documents: int = _setting(16, "documents in each step of the policy")
    item_documents: int | None = _setting(
        None,
        "documents in each item of work, which one worker samples at a time; when unset 8 on a CPU and 64 on a GPU",
    )
    learning_rate: float = _setting(3e-3, "highest learning rate of the policy")
    reward_to_go: bool = _setting(
        True, "whether the return of a point counts only the cost from that point on, and not the cost before it"
    )
    tokens_per_decision: int | None = _setting(
        None,
        "neighbouring tokens that share a decision while trajectories are drawn; in use each token has its own; when "
        "unset 8 for the places of answers, and 1 for all else",
    )
    temperature: float = _setting(1.0, "temperature of the relaxed decisions from which selector 'gumbel' learns")
    baseline: Literal["leave-one-out", "mean"] = _setting(
        "leave-one-out",
        "baseline of a sample's return: the mean return of the document's other samples ('leave-one-out') or of all "
        "its samples ('mean')",
    )
    token_average: bool = _setting(
        False,
        "whether log-probabilities are averaged over tokens, as in the paper's code, or summed and divided by sqrt n",
    )
    guided_share: float = _setting(
        0.0, "fraction of the steps, from the first on, in which a document's last sample keeps the most salient tokens"
    )
    warm_start_documents: int = _setting(1500, "documents on which the policy first learns to imitate saliency")

    def __post_init__(self) -> None:
        points = self.points or ()
        rising = all(0 <= a < b for a, b in pairwise((*points, math.inf)))
        _check(rising, "select.points", "rising layer indices from 0 (such as 0,2)", points)
        _check(self.penalty is None or self.penalty >= 0, "select.penalty", "0 or more", self.penalty)
        _check(self.samples >= 2, "select.samples", "at least 2", self.samples)
        together = self.tokens_per_decision
        _check(together is None or together >= 1, "select.tokens_per_decision", "at least 1 or unset", together)
        for name in ("documents", "step_documents"):
            _check(getattr(self, name) > 0, f"select.{name}", "positive", getattr(self, name))
        item = self.item_documents
        _check(item is None or item > 0, "select.item_documents", "positive or unset", item)
        _check(self.learning_rate > 0, "select.learning_rate", "positive", self.learning_rate)
        ratios = self.keep_ratios or ()
        _check(all(0 <= ratio <= 1 for ratio in ratios), "select.keep_ratios", "fractions from 0 to 1", ratios)
        for_each = not points or not ratios or len(ratios) == len(points)
        _check(for_each, "select.keep_ratios", f"one for each of the select.points {points}", ratios)
        prices = ("flops", "latency", "tokens")
        _check(self.price in prices, "select.price", "'flops', 'latency' or 'tokens'", self.price)
        unused = self.latency_table is not None and self.price != "latency"
        _check(not unused, "select.latency_table", "unset unless select.price is 'latency'", self.latency_table)
        _check(0 <= self.guided_share <= 1, "select.guided_share", "a fraction from 0 to 1", self.guided_share)
        _check(self.temperature > 0, "select.temperature", "positive", self.temperature)
        _check(self.warm_start_documents >= 0, "select.warm_start_documents", "0 or more", self.warm_start_documents)

    def documents_of_item(self, device: str) -> int:
        """Returns the number of documents in each item of work. A GPU is busy only with many tokens at once.

        Args:
            device: where items are sampled: "cpu" or "cuda".
        """
        if self.item_documents is not None:
            return self.item_documents
        return 8 if device == "cpu" else 64


DISTILLATION = 0.5
"""The weight of the teacher's outputs in the task loss where none is set and all texts have labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSettings:
    """Stage 3: encoder and policy learn together."""

    documents: int = _setting(
        32000, "documents to train on; a document counts again in each epoch; 0 leaves the stage out"
    )
    samples: int = _setting(2, "sampled trajectories of each document")
    batch_size: int = _setting(16, "documents in each step")
    learning_rate: float = _setting(1e-4, "highest learning rate of the encoder")
    policy_learning_rate: float = _setting(5e-4, "highest learning rate of the policy and of fusion")
    distillation: float | None = _setting(
        None,
        "weight of the teacher's outputs in the task loss, from 0 to 1; the labels have the rest, or less if the stage "
        "sees each document more than twice; 0.5 when unset, and 1 with unlabelled texts",
    )
    temperature: float = _setting(1.0, "temperature of distillation")
    fastest: float = _setting(
        16.0,
        "each document has one more trajectory, thresholded at a speed-up that is drawn from 1x to this; 0 leaves it "
        "out",
    )
    keep_all: float = _setting(0.1, "fraction of these further trajectories that keep all tokens instead")

    def __post_init__(self) -> None:
        _check(self.documents >= 0, "joint.documents", "0 or more", self.documents)
        _check(self.samples >= 2, "joint.samples", "at least 2", self.samples)
        _check(self.batch_size > 0, "joint.batch_size", "positive", self.batch_size)
        for name in ("learning_rate", "policy_learning_rate", "temperature"):
            _check(getattr(self, name) > 0, f"joint.{name}", "positive", getattr(self, name))
        share = self.distillation
        _check(share is None or 0 <= share <= 1, "joint.distillation", "a fraction from 0 to 1", share)
        _check(0 <= self.keep_all <= 1, "joint.keep_all", "a fraction from 0 to 1", self.keep_all)
        _check(self.fastest == 0 or self.fastest > 1, "joint.fastest", "more than 1, or 0", self.fastest)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """How the machine is used. Results depend on it only by rounding."""

    device: str = _setting("auto", "'cpu', 'cuda' or 'auto': the first GPU, or the processor if there is no GPU")
    dtype: Literal["auto", "float32", "bfloat16"] = _setting(
        "auto", "arithmetic of training: 'float32', 'bfloat16' or 'auto': bfloat16 if it is timed to be faster"
    )
    evaluation: Literal["auto", "float32", "bfloat16"] = _setting(
        "float32", "arithmetic of evaluation: 'float32', in which a saved model is loaded, 'bfloat16' or 'auto'"
    )
    threads: int | None = _setting(
        None,
        "threads of each process; when unset all cores for the teacher and for a trial that runs alone, or else 1",
    )
    tokens_per_batch: int | None = _setting(
        None,
        "most tokens in one pass; a pass is halved when memory runs out; when unset 16384, and up to 131072 on a GPU "
        "with memory for it",
    )
    deterministic: bool = _setting(
        False,
        "whether two runs give the same models: documents and arithmetic are fixed, and no time decides anything, not "
        "even the budget",
    )

    def __post_init__(self) -> None:
        for name in ("dtype", "evaluation"):
            value = getattr(self, name)
            _check(value in ("auto", "float32", "bfloat16"), f"compute.{name}", "auto, float32 or bfloat16", value)
        _check(self.threads is None or self.threads > 0, "compute.threads", "positive or unset", self.threads)
        tokens = self.tokens_per_batch
        _check(tokens is None or tokens > 0, "compute.tokens_per_batch", "positive or unset", tokens)
        for name in ("dtype", "evaluation"):
            fixed = not self.deterministic or getattr(self, name) != "auto"
            _check(fixed, f"compute.{name}", "float32 or bfloat16 with --deterministic", getattr(self, name))
        fixed = not self.deterministic or self.threads is not None
        _check(fixed, "compute.threads", "a number with --deterministic", self.threads)

    @property
    def tokens_of_pass(self) -> int:
        """The most tokens of a pass, where no memory was measured."""
        return 16384 if self.tokens_per_batch is None else self.tokens_per_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one model is made: the encoder, the data, the three stages of learning, and the use of the machine."""

    model: str = _setting(
        "minilm", "hub name or folder of the encoder, plain or fine-tuned; 'minilm' is the packaged encoder"
    )
    family: str | None = _setting(
        None,
        "family of the encoder, if trbert has none of its model_type: a trbert.Family in Python code of your own, as "
        "my_package.families:FAMILY or my_family.py:FAMILY, which is imported; unset for the families of trbert",
    )
    new_head: bool = _setting(False, "whether a fine-tuned model gets a new head for the labels of the data")
    seed: int = _setting(0, "seed of every random number")
    positions: int | None = _setting(
        None, "learned positions that the encoder gets, by repeating its own ones; only its own ones when unset"
    )
    policy_width: int = _setting(32, "hidden width of a policy head")
    task: str | None = _setting(
        None,
        "what is predicted; when unset the model's own head, the columns and the labels tell: 'classification' (one "
        "label), 'multi_label' (any number of labels), 'regression' (a number), 'tagging' (a tag for each word), "
        "'reranking' or 'listwise_reranking' (the order of a query's documents), 'question_answering' (the span that "
        "answers a question), 'multiple_choice' (one of several options) or 'embedding' (a vector); see docs/tasks.md",
    )
    selector: str = _setting(
        "policy",
        "what decides which tokens go on: 'policy', 'gumbel' (a policy that learns from relaxed decisions), or one of "
        "the rules 'first', 'random', 'attention' and 'saliency'",
    )
    policy_features: tuple[str, ...] = _setting(
        ("document", "neighbours", "question"),
        "what policy heads see besides the token itself: 'document' (a summary of the document), 'neighbours' (the "
        "tokens beside it), 'question' (how well the words around it match the question or query, where the task "
        "protects one)",
    )
    fusion: bool = _setting(
        True, "whether the mean of the dropped tokens is added to the first token's state; joint learns how"
    )
    exits: bool = _setting(
        True,
        "whether a linear map brings the state of a dropped token near to its last state, for tasks whose head reads "
        "every token, or averages over all of them; it is fitted to the teacher, and joint trains it",
    )
    data: DataSettings = field(default_factory=DataSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    select: SelectSettings = field(default_factory=SelectSettings)
    joint: JointSettings = field(default_factory=JointSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)

    def __post_init__(self) -> None:
        _check(self.model.strip() != "", "--model", "a name or a folder", self.model)
        place, _, name = (self.family or "my_family.py:FAMILY").rpartition(":")
        _check(
            bool(place.strip() and name.isidentifier()),
            "--family",
            "a module and a name in it, such as my_package.families:FAMILY or my_family.py:FAMILY",
            self.family,
        )
        _check(self.positions is None or self.positions > 0, "positions", "positive or unset", self.positions)
        _check(self.policy_width > 0, "policy_width", "positive", self.policy_width)
        known = set(self.policy_features) <= {"document", "neighbours", "question"}
        _check(known, "policy_features", "names from 'document', 'neighbours' and 'question'", self.policy_features)
        timed = self.select.price == "latency" and self.select.latency_table is None
        _check(
            not (self.compute.deterministic and timed),
            "--latency-table",
            "given with --deterministic and --price latency, because layers are timed without it",
            self.select.latency_table,
        )
        chosen = type(self).__dataclass_fields__
        if self.task is not None:
            _check_task(self.task)
        if self.selector != chosen["selector"].default:
            self._check_selector()

    def _check_selector(self) -> None:
        # This imports torch, which takes seconds. The default selector needs no check, so that plans are fast.
        from trbert.selection.selectors import selector_class

        kind = selector_class(self.selector)
        thresholds = kind.learns or self.joint.fastest > 0
        _check(thresholds, "joint.fastest", "more than 1 for a selector that draws no masks", self.joint.fastest)
        guided = kind.relaxed and self.select.guided_share > 0
        _check(not guided, "select.guided_share", f"0 with selector {self.selector!r}", self.select.guided_share)


def _check_task(name: str) -> None:
    from trbert.tasks import task_of  # imports torch, which takes seconds; plans without --task are fast

    task_of(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What the user asks for besides the settings of a model. It is saved with the run, so that it can be resumed.

    Attributes:
        num_trials: the number of models to train; as many as fit the budget if None.
        num_rollout_workers: the number of processes that sample for each trial, besides the trial's own.
        num_learners: the number of processes that share the teacher's training and each joint stage.
        gpus_per_worker: the GPUs of each trial's learner and of each of its workers; an even share if None.
        budget: the time for everything, such as "10m".
        address: the address of a Ray cluster; None is this machine.
        storage: the folder or URI for the trials' checkpoints; the run folder if None.
        fixed: the names of the settings that the search does not vary: those that the user gave, and those that what
            the user gave decides.

    Raises:
        InputError: A number is too small, or the budget is not a duration.
    """

    num_trials: int | None = None
    num_rollout_workers: int = 0
    num_learners: int = 1
    gpus_per_worker: float | None = None
    budget: str = "10m"
    address: str | None = None
    storage: str | None = None
    fixed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("num_rollout_workers", "gpus_per_worker"):
            value = getattr(self, name)
            _check(value is None or value >= 0, f"--{name.replace('_', '-')}", "0 or more", value)
        for name in ("num_trials", "num_learners"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"--{name.replace('_', '-')}", "1 or more", value)
        _check(self.storage is None or self.storage.strip() != "", "--storage", "a folder or a URI", self.storage)
        parse_duration(self.budget)

    @property
    def seconds(self) -> float:
        """The budget in seconds."""
        return parse_duration(self.budget)

    @property
    def processes(self) -> int:
        """The number of processes of a trial: its own one, and its rollout workers."""
        return 1 + self.num_rollout_workers


def parse_duration(text: str) -> float:
    """Returns the seconds of a duration such as "90s", "10m", "2h" or "1h30m".

    Raises:
        InputError: The text is not a duration, or it is 0.

    Example:
        >>> parse_duration("1h30m")
        5400.0
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    if not match or not any(match.groups()):
        raise InputError(f"a budget must be a duration such as 90s, 10m or 1h30m, and is {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise InputError(f"a budget must be more than 0 seconds, and is {text!r}")
    return total


TR_BERT: dict[str, Any] = {
    "policy_features": (),
    "fusion": False,
    "exits": False,
    "select.points": None,
    "select.keep_ratios": None,
    "select.price": "tokens",
    "select.baseline": "mean",
    "select.token_average": True,
    "select.reward_to_go": False,
    "select.guided_share": 0.5,
    "select.warm_start_documents": 0,
    "select.samples": 8,
    "select.step_documents": 32,
    "select.learning_rate": 3e-5,
    "joint.samples": 8,
    "joint.batch_size": 32,
    "joint.learning_rate": 3e-5,
    "joint.policy_learning_rate": 3e-5,
    "joint.distillation": 1.0,
    "joint.fastest": 0.0,
}
"""The paper's own recipe (Ye et al. 2021, and its code), as changes of settings.

The penalty is not among them, because the paper sets it by hand for each data set.
"""

PRESETS: dict[str, dict[str, Any]] = {"tr-bert": TR_BERT}

DETERMINISTIC: dict[str, Any] = {
    "compute.deterministic": True,
    "compute.dtype": "float32",
    "compute.evaluation": "float32",
    "compute.threads": 1,
}
"""What --deterministic changes, unless --set says otherwise."""


def override(settings: Settings, changes: dict[str, Any]) -> Settings:
    """Returns a copy of the settings with these changes, checked once all of them are made.

    Args:
        settings: the settings to start from; they stay as they are.
        changes: new values by name, such as "select.penalty".

    Raises:
        InputError: A name is unknown, or a value is not allowed. For a name the message gives the nearest known one.

    Example:
        >>> override(Settings(), {"select.penalty": 0.2}).select.penalty
        0.2
    """
    known = setting_names()
    groups: dict[str, dict[str, Any]] = {"": {}}
    for name, value in changes.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the settings are {', '.join(known)}"
            raise InputError(f"there is no setting {name!r}: {hint}")
        group, _, field = name.rpartition(".")
        node = getattr(settings, group) if group else settings
        kind = typing.get_type_hints(type(node))[field]
        groups.setdefault(group, {})[field] = _coerce(name, kind, value)
    outer = groups.pop("")
    inner = {group: dataclasses.replace(getattr(settings, group), **values) for group, values in groups.items()}
    return dataclasses.replace(settings, **outer, **inner)


def setting_names() -> dict[str, "dataclasses.Field[Any]"]:
    """Returns the fields of all settings by name, such as "select.penalty"."""
    names: dict[str, dataclasses.Field[Any]] = {}
    for outer in dataclasses.fields(Settings):
        if dataclasses.is_dataclass(outer.type):
            names |= {f"{outer.name}.{inner.name}": inner for inner in dataclasses.fields(outer.type)}
        else:
            names[outer.name] = outer
    return names


def to_json(settings: Settings) -> dict[str, Any]:
    """Returns settings as plain JSON values."""
    return dataclasses.asdict(settings)


def from_json(values: dict[str, Any]) -> Settings:
    """Returns the settings that `to_json` wrote.

    Raises:
        InputError: A name is unknown, or a value is not allowed.
    """
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            changes |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            changes[name] = value
    return override(Settings(), changes)


def search_from_json(values: dict[str, Any]) -> Search:
    """Returns the search that `dataclasses.asdict` wrote as JSON values.

    Raises:
        InputError: A value is not allowed.
        TypeError: A name is unknown.
    """
    kinds = typing.get_type_hints(Search)
    found = {**values, "fixed": tuple(values.get("fixed", ()))}
    return Search(**{name: _coerce(name, kinds[name], each) if name in kinds else each for name, each in found.items()})


def _coerce(name: str, kind: Any, value: Any) -> Any:
    """Returns the value in the type of its field: a list becomes a tuple, and a whole number may become a float."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    for each in kinds:
        origin = typing.get_origin(each)
        if each is type(None) and value is None:
            return None
        if origin is tuple:
            item = typing.get_args(each)[0]
            lone = isinstance(value, str) if item is str else _is_number(value)
            parts = (value,) if lone else value  # one value without a comma is a list of one
            if isinstance(parts, list | tuple):
                return tuple(_coerce(name, item, part) for part in parts)
        if origin is Literal and value in typing.get_args(each):
            return value
        if each is float and _is_number(value):
            # Most rules ask only whether a number is positive, and infinity is.
            _check(math.isfinite(value), name, "a finite number", value)
            return float(value)
        if isinstance(each, type) and origin is None and type(value) is each:
            return value
    raise InputError(f"{name} must be {' or '.join(map(_in_words, kinds))}, and is {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return "names (such as a,b)" if item is str else f"{_in_words(item)} for each point (such as 0,2)"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    return words[kind]
