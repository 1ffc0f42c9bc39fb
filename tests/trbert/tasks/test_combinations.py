"""Tasks, encoder families, runners and selectors together: each contract has one axis, and here they meet.

Combinations are drawn with a seed that is another one each week: two for each task, and in the slow tests one for each
task and family. `TRBERT_SEED=202648` draws those of week 48 of 2026 again; a test's name holds its seed.
"""

import copy
import datetime
import os
import random
from dataclasses import dataclass

import pytest
import torch
import transformers
from torch.testing import assert_close

from tests.trbert.conftest import CONFIGS
from tests.trbert.tasks.test_contract import CASES
from trbert.encoder import Encoder
from trbert.modeling import assemble, load
from trbert.packed.families import FAMILIES
from trbert.packed.heads import plain_outputs
from trbert.runners import RUNNERS, runner_of
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import SELECTORS, selector_of
from trbert.tasks import TASKS
from trbert.tasks.rows import Table

YEAR, WEEK, _ = datetime.date.today().isocalendar()
SEED = int(os.environ.get("TRBERT_SEED", f"{YEAR}{WEEK:02}"))
POINTS = (1, 3)
# How far a runner's outputs may be from the plain model's, as a share of their norm.
TOLERANCES = {"int8": 0.3}
# A state whose last digits differ, because products of other sizes are summed in another order, may have another code.
ONE_CODE = {"int8": 0.15}
# A rule that needs targets is no model that can be used.
USED = [name for name, selector in SELECTORS.items() if selector.needs != "saliency"]


@dataclass(frozen=True)
class Combination:
    """A task with what its model is made of."""

    case: object
    family: str
    runner: str
    selector: str

    @property
    def task(self):
        return self.case.task

    def __str__(self):
        return f"{self.task.name}, {self.family}, {self.runner}, {self.selector}, seed {SEED}"


def has_head(case, family):
    """Whether transformers has the task's head for this family."""
    return type(CONFIGS[family]()) in getattr(transformers, case.task.head)._model_mapping


def drawn(case):
    """Yields two combinations of a task, of two families and two runners."""
    draw = random.Random(f"{SEED} {case.task.name}")
    families = draw.sample([family for family in CONFIGS if has_head(case, family)], 2)
    for family, runner in zip(families, draw.sample([*RUNNERS], 2), strict=True):
        yield Combination(case, family, runner, draw.choice(USED))


def every():
    """Yields every task with every family; the runners and the selectors are drawn."""
    draw = random.Random(SEED)
    for case in CASES:
        for family in CONFIGS:
            lacks = f"transformers has no {case.task.head} for {family}"
            marks = [pytest.mark.slow, pytest.mark.skipif(not has_head(case, family), reason=lacks)]
            combination = Combination(case, family, draw.choice([*RUNNERS]), draw.choice(USED))
            yield pytest.param(combination, marks=marks)


@pytest.fixture(params=[*(own for case in CASES for own in drawn(case)), *every()], ids=str)
def own(request, monkeypatch):
    """A combination. Its task is known by its name, and what it would compile is run as it is."""
    monkeypatch.setitem(TASKS, request.param.task.name, request.param.task)
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *given: function(*given))
    return request.param


@pytest.fixture
def plain(own, build_model):
    """The model as Hugging Face made it, which no runner has touched."""
    config = CONFIGS[own.family]()
    config.num_labels = own.case.outputs
    if own.case.pools:  # without a head, the outputs are pooled states
        config.pooling, config.normalised = "mean", False
    return build_model(config, SEED, own.task.auto_class)


@pytest.fixture
def examples(own, plain, tokenizer):
    """The examples of the task's own table, settled by random outputs of a teacher.

    A family with one segment alone has no second one.
    """
    read = own.task.read({"train": Table("a.csv", own.case.values)}, own.task.columns(*own.case.columns))
    found = own.task.encode(read.rows["train"], tokenizer, 16).examples
    if found.tokens.token_type_ids is not None and getattr(plain.config, "type_vocab_size", 1) < 2:
        found.tokens.token_type_ids.zero_()
    outputs = torch.randn(found.num_outputs, own.case.outputs, generator=torch.Generator().manual_seed(SEED))
    return own.task.settled(found, outputs, found, outputs)


@pytest.fixture
def model(own, plain):
    """The model that drops tokens, before a runner is chosen. Its policy's logits are far from 0 on both sides."""
    torch.manual_seed(SEED)
    policy = Policy(32, len(POINTS) if SELECTORS[own.selector].learns else 0)
    for name, parameter in policy.named_parameters():
        torch.nn.init.normal_(parameter, std=0.03 if "document" in name else 0.3)
    reducer = Reducer(encoder=Encoder(copy.deepcopy(plain)), task=own.task, points=POINTS)
    return assemble(reducer, selector_of(own.selector, policy), dial_of(own), 40)


def dial_of(own):
    """A dial that drops tokens."""
    return 0.0 if SELECTORS[own.selector].learns else 0.3


def outputs_of(model, examples, dial=None):
    """Returns the outputs of a model that drops tokens, at its own dial or another one."""
    reducer, selector = model.reducer, model.selector
    return reducer.outputs(reducer.run(selector, examples.tokens, model.config.dial if dial is None else dial))


def plainly(plain, examples):
    """Returns the outputs of a plain model for the documents, padded."""
    tokens = examples.tokens
    mask = torch.arange(int(tokens.lengths.max())) < tokens.lengths[:, None]
    ids = torch.full(mask.shape, plain.config.pad_token_id)
    ids[mask] = tokens.input_ids
    batch = {"input_ids": ids, "attention_mask": mask.long()}
    if FAMILIES[plain.config.model_type].embeds_segments and tokens.token_type_ids is not None:
        batch["token_type_ids"] = torch.zeros_like(ids)
        batch["token_type_ids"][mask] = tokens.token_type_ids
    outputs = plain_outputs(plain, batch)
    return outputs if examples.reads == "documents" else outputs[mask]


@torch.no_grad()
def test_keeping_all_equals_the_plain_model(own, plain, model, examples):
    model.run_with(runner_of(own.runner))
    expected = plainly(plain, examples)
    assert expected.std() > 1e-3  # so that outputs of other documents are not near enough
    for found in (
        outputs_of(model, examples, model.selector.keep_all),
        model.reducer.unreduced_outputs(examples.tokens),
    ):
        if own.runner in TOLERANCES:
            assert (found - expected).norm() < TOLERANCES[own.runner] * expected.norm()
        else:
            assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_examples_outputs_depend_neither_on_the_others_nor_on_the_order(own, model, examples):
    model.run_with(runner_of(own.runner))
    together = outputs_of(model, examples)
    for chosen in (torch.tensor([3, 0, 4, 1, 2]), *torch.arange(len(examples))[:, None]):
        found, expected = outputs_of(model, examples.take(chosen)), together[examples.output_rows(chosen)]
        if own.runner in ONE_CODE:
            assert (found - expected).norm() < ONE_CODE[own.runner] * expected.norm()
        else:
            assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_saved_model_says_the_same_once_it_is_loaded(own, model, examples, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, runner=own.runner)
    model.run_with(runner_of(own.runner))
    assert torch.equal(outputs_of(loaded, examples), outputs_of(model, examples))
    assert type(loaded.task) is type(own.task)


def test_with_all_tokens_kept_each_weight_has_the_plain_models_gradient(own, plain, model, examples):
    if own.runner == "int8":
        pytest.skip("a model in int8 cannot learn")
    model.run_with(runner_of(own.runner))
    own.task.loss(plainly(plain, examples), examples).mean().backward()
    own.task.loss(outputs_of(model, examples, model.selector.keep_all), examples).mean().backward()
    found = dict(model.plain.named_parameters())
    learned = {name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None}
    assert any("layer" in name and gradient.norm() > 0 for name, gradient in learned.items())
    whole = torch.stack([gradient.norm() for gradient in learned.values()]).norm()
    for name, gradient in learned.items():
        assert (found[name].grad - gradient).norm() < 1e-4 * whole, name
