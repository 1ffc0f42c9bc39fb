"""A model measured: masks thresholded as deployed, and masks drawn as in training."""

import copy
import dataclasses

import pytest
import torch
import transformers
from torch.testing import assert_close

from trbert.errors import DamagedCheckpoint, InputError
from trbert.measure.latency import LatencyTable
from trbert.modeling import load
from trbert.selection.selectors import SELECTORS
from trbert.tasks import TASKS
from tune.budget import StageTimeout
from tune.learning import joint_stage as joint
from tune.learning import model as training
from tune.learning import select_stage as stages
from tune.learning.model import SPEED_UPS, Model, measure_along_dial, save_deployable, save_tokenizer, spread_dials
from tune.learning.prepare import Prepared
from tune.settings import PRESETS, override

QUICK = {"select.points": (0, 2)}
KEEP_ALL = 1000.0


@pytest.fixture
def split(prepared):
    return prepared.validation


def make(prepared, settings, changes=None):
    return Model(prepared, override(settings, QUICK | (changes or {})))


def set_scale(model, weight, bias):
    with torch.no_grad():
        for head in model.policy.heads:
            head.linear_2.weight.mul_(weight)
            head.linear_2.bias.fill_(bias)


def untimed(evaluation):
    return dataclasses.replace(evaluation, docs_per_second=0.0)


def test_a_policy_that_is_sure_draws_what_it_would_deploy(prepared, tiny_settings, split):
    model = make(prepared, tiny_settings)
    set_scale(model, 1e9, 0.0)
    drawn, deployed = model.evaluate_sampled(split), model.evaluate(split, 0.0)
    assert untimed(drawn) == untimed(deployed)
    assert 0 < deployed.kept[1] < deployed.kept[0] < 1


def test_neighbours_share_decisions_where_the_place_of_an_answer_is_asked(prepared, tiny_settings, monkeypatch):
    answers, tags, order = (TASKS[name] for name in ("question_answering", "tagging", "reranking"))
    for task, separator, asks in ((answers, 4, True), (answers, None, False), (tags, None, False), (order, 4, False)):
        assert dataclasses.replace(prepared, task=task, separator=separator).asks == asks
    assert make(prepared, tiny_settings).settings.select.tokens_per_decision == 1
    monkeypatch.setattr(Prepared, "asks", True)
    assert make(prepared, tiny_settings).settings.select.tokens_per_decision == 8
    asked = make(prepared, tiny_settings, {"select.tokens_per_decision": 3})
    assert asked.settings.select.tokens_per_decision == 3


@pytest.mark.parametrize("name", ["policy", "gumbel"])
def test_all_that_learns_draws_as_the_settings_say(name, prepared, tiny_settings, monkeypatch):
    drawn = []
    for module in (stages, joint, training):

        def watched(*arguments, sample=module.sample_trajectories, **named):
            drawn.append(named["tokens_per_decision"])
            return sample(*arguments, **named)

        monkeypatch.setattr(module, "sample_trajectories", watched)
    changes = SHORT | {"selector": name, "select.documents": 16, "select.tokens_per_decision": 3}
    model = make(prepared, tiny_settings, changes | {"joint.documents": 16})
    train = prepared.train
    model.select(train, model.sampler(train), lambda step: None)
    before = len(drawn)
    model.join(train, lambda step: None)
    joined = len(drawn)
    model.evaluate_sampled(prepared.validation)
    assert 0 < before < joined < len(drawn)
    assert set(drawn) == {3}


def test_a_policy_that_leans_one_way_draws_less_than_it_would_deploy(prepared, tiny_settings, split):
    model = make(prepared, tiny_settings)
    set_scale(model, 0.0, 1.0)  # keeps with probability .73, and above one half everywhere
    drawn, deployed = model.evaluate_sampled(split), model.evaluate(split, 0.0)
    assert deployed.kept == (1.0, 1.0)
    protected = 2 / float(split.tokens.lengths.double().mean())
    for point, keep in enumerate((0.7311, 0.7311**2)):
        assert drawn.kept[point] == pytest.approx(protected + (1 - protected) * keep, abs=0.06)
    assert drawn.speed_up > 1


def test_drawn_masks_do_not_depend_on_the_batches(prepared, tiny_settings, split):
    small, large = (make(prepared, tiny_settings, {"compute.tokens_per_batch": most}) for most in (40, 4096))
    first, second = small.evaluate_sampled(split), large.evaluate_sampled(split)
    assert first.kept == second.kept
    assert first.quality == second.quality


def test_a_penalty_that_is_not_set_is_the_tasks_own(prepared, tiny_settings):
    own = dataclasses.replace(prepared, penalty=0.3)
    unset = make(own, tiny_settings, {"select.penalty": None})
    assert unset.dynamics.terms.penalty == unset.settings.select.penalty == 0.3
    assert make(own, tiny_settings, {"select.penalty": 0.0}).dynamics.terms.penalty == 0.0


def test_keep_ratios_that_are_set_are_free_of_charge_by_hand(prepared, tiny_settings):
    # Of 8 tokens 6 and 2 are left: ¾ and ¼, of which ½ and ¼ are free; each of the two points counts half.
    kept = torch.tensor([[6], [2]])
    for ratios, charge in ((None, (0.75 + 0.25) / 2), ((0.5, 0.25), (0.75 - 0.5) / 2)):
        model = make(prepared, tiny_settings, {"select.price": "tokens", "select.keep_ratios": ratios})
        assert model.dynamics.charge(torch.tensor([8]), kept).item() == pytest.approx(charge)


def test_where_time_is_the_price_the_prepared_table_is_paid(prepared, tiny_settings):
    table = LatencyTable(
        tokens=(1, 2), seconds=(1.0, 2.0), documents=1, layers=4, device="cpu", dtype="float32", threads=1
    )
    timed = dataclasses.replace(prepared, latency=table)
    assert make(timed, tiny_settings, {"select.price": "latency"}).dynamics.terms.latency is table
    with pytest.raises(InputError, match="needs a latency table"):
        make(prepared, tiny_settings, {"select.price": "latency"})


def test_what_heads_see_is_set_and_the_papers_see_their_token_alone(prepared, tiny_settings):
    assert make(prepared, tiny_settings).policy.features == ("document", "neighbours")
    assert make(prepared, tiny_settings, {"policy_features": ("neighbours",)}).policy.features == ("neighbours",)
    assert make(prepared, tiny_settings, PRESETS["tr-bert"]).policy.features == ()


SHORT = {
    "select.documents": 32,
    "select.samples": 2,
    "select.warm_start_documents": 16,
    "joint.documents": 16,
    "joint.samples": 2,
}


@pytest.mark.parametrize("name", SELECTORS)
def test_a_model_of_every_selector_is_trained_measured_and_saved(name, prepared, tiny_settings, tmp_path):
    model = make(prepared, tiny_settings, SHORT | {"selector": name})
    train, split = prepared.train, prepared.validation
    learns = model.selector.learns
    assert model.selector.name == name
    told = []
    model.select(train, model.sampler(train), lambda step: told.append("select"))
    model.join(train, lambda step: told.append("joint"))
    assert told == ["select"] * (2 if learns else 0) + ["joint"]

    curve = measure_along_dial(model, split, lambda share: told.append(share))
    assert told[-1] == 1.0
    dials = [dial for dial, _ in curve]
    assert dials == sorted(dials)
    assert {model.selector.default_dial, model.selector.keep_all} <= set(dials)
    speed_ups = [found.speed_up for _, found in curve]
    assert speed_ups == sorted(speed_ups, reverse=True)
    assert curve[-1][1].kept == (1.0,) * len(model.points)
    unreduced = model.reducer.unreduced_outputs(split.tokens).argmax(-1) == split.targets
    assert curve[-1][1].quality == float(unreduced.double().mean())

    deployed, drawn = model.evaluate(split, model.selector.default_dial), model.evaluate_sampled(split)
    assert (untimed(drawn) == untimed(deployed)) != learns  # a rule draws nothing

    model.deployable().save_pretrained(tmp_path)
    own = load(tmp_path)
    assert (own.selector.name, own.config.dial) == (name, model.selector.default_dial)
    assert tuple(own.config.points) == model.points
    if name == "saliency":  # a reference, which has no labels where it is deployed
        with pytest.raises(InputError, match="the saliency rule needs the documents' labels"):
            own(split.tokens.input_ids[None, :5])
        return
    documents = [ids[None] for ids in split.tokens.input_ids.split(split.tokens.lengths.tolist())]
    with torch.no_grad():
        answers = torch.cat([own(ids).logits for ids in documents])
        finished = model.reducer.run(model.selector, split.tokens, model.selector.default_dial)
        assert_close(answers, model.reducer.outputs(finished), rtol=1e-4, atol=1e-5)
    assert float((answers.argmax(-1) == split.targets).double().mean()) == deployed.quality


def test_no_draw_is_used_by_two_stages_nor_by_a_stage_and_a_measurement(prepared, tiny_settings, monkeypatch):
    seen = {}
    for module in (stages, joint, training):

        def watched(*arguments, module=module, sample=module.sample_trajectories, **named):
            seen.setdefault(module, set()).add(arguments[3].version)
            return sample(*arguments, **named)

        monkeypatch.setattr(module, "sample_trajectories", watched)
    model = make(prepared, tiny_settings, SHORT | {"joint.documents": 32})
    train = prepared.train
    model.select(train, model.sampler(train), lambda step: None)
    model.join(train, lambda step: None)
    model.evaluate_sampled(prepared.validation)
    # Two steps of select, two of joint, and one version for the whole measurement.
    assert [len(seen[module]) for module in (stages, joint, training)] == [2, 2, 1]
    assert len(seen[stages] | seen[joint] | seen[training]) == 5


def test_masks_that_are_drawn_follow_the_seed(prepared, tiny_settings, split):
    found = []
    for seed in (0, 0, 1):
        model = make(prepared, tiny_settings, {"seed": seed})
        set_scale(model, 0.0, 0.0)  # even odds, whatever the seed of the weights
        found.append(model.evaluate_sampled(split).kept)
    assert found[0] == found[1] != found[2]


def test_a_model_is_measured_in_the_arithmetic_of_evaluation(prepared, tiny_settings, split, monkeypatch):
    measures = {"evaluate_in_time": training.evaluate_in_time, "evaluate_forward": training.evaluate_forward}
    for name, measure in measures.items():

        def watched(*arguments, measure=measure):
            used.append(torch.is_autocast_enabled("cpu"))
            return measure(*arguments)

        monkeypatch.setattr(training, name, watched)
    for trained, measured in (("float32", "bfloat16"), ("bfloat16", "float32")):
        used = []
        model = make(prepared, tiny_settings, {"compute.dtype": trained, "compute.evaluation": measured})
        model.evaluate(split, 0.0)
        model.evaluate_sampled(split)
        assert used == [measured == "bfloat16"] * 2


def test_a_model_is_trained_in_the_arithmetic_of_training(prepared, tiny_settings, monkeypatch):
    used = []
    for module in (stages, joint):

        def watched(*arguments, sample=module.sample_trajectories, **named):
            used.append(torch.is_autocast_enabled("cpu"))
            return sample(*arguments, **named)

        monkeypatch.setattr(module, "sample_trajectories", watched)
    train = prepared.train
    for dtype in ("float32", "bfloat16"):
        used.clear()
        model = make(prepared, tiny_settings, SHORT | {"compute.dtype": dtype, "compute.evaluation": "float32"})
        model.select(train, model.sampler(train), lambda step: None)
        selected = len(used)
        model.join(train, lambda step: None)
        assert 0 < selected < len(used)
        assert set(used) == {dtype == "bfloat16"}


def test_a_deployable_model_has_the_dial_and_the_length_that_it_is_given(prepared, tiny_settings):
    for asked, longest in ((20, 20), (500, 32)):  # the encoder has 32 positions
        model = make(prepared, tiny_settings, {"data.max_length": asked})
        assert model.deployable(0.75).config.dial == 0.75
        assert model.deployable().config.dial == 0.0
        assert model.deployable().config.max_tokens == longest


def test_heads_are_as_wide_as_set(prepared, tiny_settings):
    assert make(prepared, tiny_settings, {"policy_width": 5}).policy.heads[0].linear_1.out_features == 5


def test_only_a_model_with_a_joint_stage_has_fusion(prepared, tiny_settings):
    for changes, maps in (({}, 2), ({"joint.documents": 0}, 0), ({"fusion": False}, 0)):
        assert len(make(prepared, tiny_settings, changes).reducer.fusion.maps) == maps


def test_what_a_model_learns_lies_in_the_order_of_its_states(prepared, tiny_settings, drawer):
    model = make(prepared, tiny_settings, SHORT)
    model.join(prepared.train, lambda step: None, drawer)
    saved = drawer.state["weights"][: len(model.parameters)]  # what is carried comes after them
    assert all(torch.equal(one, other) for one, other in zip(model.parameters, saved, strict=True))


def test_a_select_stage_that_died_goes_on_as_if_it_had_lived(prepared, tiny_settings, drawer):
    def die(step):
        if step["step"] == 2:
            raise StageTimeout

    train, found = prepared.train, []
    changes = SHORT | {"select.documents": 64}

    def learn(told, keeper=None):
        model = make(prepared, tiny_settings, changes)
        model.select(train, model.sampler(train), told, keeper)
        found.append(stages.flatten(model.policy))

    steps = []
    learn(lambda step: None)
    with pytest.raises(StageTimeout):
        learn(die, drawer)
    learn(lambda step: steps.append(step["step"]), drawer)
    assert steps == [2, 3, 4]  # what the step that died had done is done again
    assert (found[0] == found[1]).all()


def test_the_orders_of_documents_in_both_parts_of_select_follow_the_seed(prepared, tiny_settings, monkeypatch):
    train = prepared.train
    orders = []

    class Asked:
        def __init__(self, sampler):
            self.sampler = sampler

        def gradients(self, weights, items):
            orders.append([document for item in items for document in item.examples])
            return self.sampler.gradients(weights, items)

    def watched(encoder, task, part, points, saliency=stages.saliency):
        orders.append(part.tokens.input_ids.tolist())
        return saliency(encoder, task, part, points)

    monkeypatch.setattr(stages, "saliency", watched)
    for seed in (0, 1):
        model = make(prepared, tiny_settings, SHORT | {"seed": seed, "select.documents": 16})
        model.select(train, Asked(model.sampler(train)), lambda step: None)
    first, second, other_first, other_second = orders
    assert first != other_first
    assert second != other_second


def test_a_rule_that_needs_attention_stands_at_fewer_points_with_ratios_of_its_own(prepared, tiny_settings):
    # As a search has them: one free ratio for each point that was asked for.
    changes = {"selector": "attention", "select.points": (0, 1), "select.keep_ratios": (0.1, 0.1)}
    model = make(prepared, tiny_settings, changes)
    assert model.points == (1,)
    assert len(model.dynamics.terms.keep_ratios) == 1


def test_the_dials_measured_lie_near_the_speed_ups_wanted(prepared, tiny_settings, split):
    model = make(prepared, tiny_settings)
    set_scale(model, 600.0, 0.0)  # logits a few units wide, as after training
    dials = spread_dials(model, split)
    assert dials == sorted(dials)
    assert {0.0, KEEP_ALL} <= set(dials)
    found = [model.evaluate(split, dial).speed_up for dial in dials if dial not in (0.0, KEEP_ALL)]
    fastest = model.evaluate(split, -4.0).speed_up
    wanted = [each for each in SPEED_UPS if each <= fastest]
    assert len(found) == len(wanted) >= 2
    for measured, speed_up in zip(found, wanted, strict=True):
        assert measured == pytest.approx(speed_up, rel=0.15)


@pytest.mark.parametrize("bias", [50.0, -50.0])
def test_speed_ups_out_of_reach_are_left_out(prepared, tiny_settings, split, bias):
    model = make(prepared, tiny_settings)
    set_scale(model, 0.0, bias)
    assert spread_dials(model, split) == [0.0, KEEP_ALL]


def test_dials_are_looked_for_on_a_few_examples_spread_over_validation(prepared, tiny_settings, split, monkeypatch):
    seen, evaluate = [], Model.evaluate

    def watched(self, examples, dial, clock):
        seen.append(examples.tokens.input_ids)
        return evaluate(self, examples, dial, clock)

    monkeypatch.setattr(training, "_SCOUTED", 5)  # of 30: every sixth
    monkeypatch.setattr(Model, "evaluate", watched)
    model = make(prepared, tiny_settings)
    training.scout(model, split)
    few = split.spread(5)
    assert len(few) == 5
    assert 2 <= len(seen) <= len(model.selector.dials)
    assert all(torch.equal(ids, few.tokens.input_ids) for ids in seen)


def test_a_model_is_measured_within_the_token_budget(prepared, tiny_settings, split, monkeypatch):
    used = []
    measures = {"evaluate_in_time": training.evaluate_in_time, "evaluate_forward": training.evaluate_forward}
    for name, measure in measures.items():

        def watched(*arguments, measure=measure):
            used.append(arguments[5])
            return measure(*arguments)

        monkeypatch.setattr(training, name, watched)
    model = make(prepared, tiny_settings, {"compute.tokens_per_batch": 123})
    model.evaluate(split, 0.0)
    model.evaluate_sampled(split)
    assert used == [123, 123]


@pytest.mark.parametrize(("own", "longest", "saved"), [(32, 20, 20), (16, 20, 16), (10**30, 20, 20)])
def test_a_saved_tokenizer_cuts_texts_as_training_cut_them(prepared, tmp_path, own, longest, saved):
    tokenizer = copy.deepcopy(prepared.tokenizer)
    tokenizer.model_max_length = own
    save_tokenizer(tokenizer, longest, tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(again("w1 " * 50, truncation=True)["input_ids"]) == saved
    assert tokenizer.model_max_length == own


def test_a_trained_model_is_saved_with_the_checksums_of_all_its_files(prepared, tiny_settings, tmp_path):
    save_deployable(make(prepared, tiny_settings), prepared.tokenizer, tmp_path / "model")
    assert load(tmp_path / "model", verify=True).config.max_tokens == tiny_settings.data.max_length
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(DamagedCheckpoint, match=r"changed: 'tokenizer\.json'"):
        load(tmp_path / "model", verify=True)
