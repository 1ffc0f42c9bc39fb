"""Sizes in a config.json that the weights do not have."""

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from trbert.errors import DamagedCheckpoint
from trbert.modeling import load
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS

TASK = TASKS["classification"]
LABELS = ("no", "yes", "maybe")

ABSURD = {
    "vocab_size": (10**8, "vocab_size in config.json is 100000000, and the weights have 60"),
    "hidden_size": (10**7, "hidden_size in config.json is 10000000, and the weights have 32"),
    "intermediate_size": (10**7, "intermediate_size in config.json is 10000000, and the weights have 48"),
    "type_vocab_size": (10**8, "type_vocab_size in config.json is 100000000, and the weights have 2"),
    "max_position_embeddings": (10**8, "max_position_embeddings in config.json is 100000000, and the weights have 40"),
    "num_hidden_layers": (900, "num_hidden_layers in config.json is 900, and the weights have 4"),
}
REFUSED = {
    "num_hidden_layers": (10**6, "num_hidden_layers in {} must be a whole number from 1 to 1000, and is"),
    "num_attention_heads": (10**7, "num_attention_heads in {} must be a whole number from 1 to 10000, and is"),
    "num_labels": (
        10**9,
        "num_labels in {} must be a whole number from 0 to 1000000, and is the int 1000000000: correct",
    ),
}


def write(folder, within=None, **entries):
    """Changes entries of the config.json of a folder, or of an object within it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if within is None else config[within]).update(entries)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize("name", list(ABSURD))
def test_an_absurd_size_of_a_plain_model_is_told_with_that_of_the_weights(folder, name, new_head):
    value, told = ABSURD[name]
    write(folder, **{name: value})
    told = f"model folder {folder} is not whole ({told}): copy or save it again"
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(told)}$"):
        load_pretrained(str(folder), TASK, LABELS, new_head=new_head)


@pytest.mark.parametrize("name", list(ABSURD))
def test_an_absurd_size_of_a_reduced_model_is_told_with_that_of_the_weights(reduced, name):
    value, told = ABSURD[name]
    write(reduced, "encoder", **{name: value})
    told = f"{reduced} does not hold a whole model ({told}): copy or save it again"
    with pytest.raises(DamagedCheckpoint, match=f"^{re.escape(told)}$"):
        load(reduced)


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_no_model_has_is_refused_at_once(folder, reduced, name):
    value, told = REFUSED[name]
    write(folder, **{name: value})
    with pytest.raises(DamagedCheckpoint, match=f"^{told.format('config.json of model .*')}"):
        load_pretrained(str(folder), TASK, LABELS)
    write(reduced, "encoder", **{name: value})
    with pytest.raises(DamagedCheckpoint, match=f"^{told.format('`encoder` in config.json of model .*')}"):
        load(reduced)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("policy_width", 10**9, "(policy_width in config.json is 1000000000, and the weights have 8)"),
        ("points", [10**6], "(points must be rising layer indices from 0 to 3, and are (1000000,)"),
        ("points", list(range(10**6)), "/config.json must be at most 1000, and are 1000000: correct it"),
        ("fusion", True, "/model.safetensors does not fit config.json: fusion.maps.0.weight, fusion.maps.1.weight"),
    ],
    ids=["policy_width", "a point", "points", "fusion"],
)
def test_an_absurd_policy_is_told(reduced, name, value, told):
    write(reduced, **{name: value})
    with pytest.raises(DamagedCheckpoint, match=re.escape(told)):
        load(reduced)


@pytest.mark.parametrize("number", [10**5, 10**6])
def test_a_head_of_absurdly_many_names_is_told(folder, reduced, number):
    names = {str(index): "x" for index in range(number)}
    write(folder, id2label=names, label2id={})
    write(reduced, "encoder", id2label=names, label2id={})
    with pytest.raises((DamagedCheckpoint, ValueError), match=r"the head has 3|at most 10 MB"):
        load_pretrained(str(folder), TASK, LABELS)
    with pytest.raises(DamagedCheckpoint, match=r"does not fit config\.json: plain\.classifier|at most 10 MB"):
        load(reduced)


@pytest.mark.parametrize("name", ["nomic_bert", "eurobert late", "modernbert cls", "albert", "distilbert", "electra"])
def test_a_vocabulary_that_is_too_large_is_told_in_other_families(config_of, build_model, tokenizer, tmp_path, name):
    build_model(config_of(name)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write(tmp_path, vocab_size=10**8)
    with pytest.raises(
        DamagedCheckpoint, match=r"\(vocab_size in config\.json is 100000000, and the weights have 60\)"
    ):
        load_pretrained(str(tmp_path), TASK, LABELS)


def test_tables_that_are_in_no_file_are_counted(config_of, build_model, tokenizer, tmp_path):
    """The positions of nomic are computed, and their number stands in no weight."""
    build_model(config_of("nomic_bert")).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write(tmp_path, max_position_embeddings=10**9)
    told = r"\(config\.json describes a model of 2,000,0.. ?.*numbers, and the weights have "
    with pytest.raises(DamagedCheckpoint, match=told):
        load_pretrained(str(tmp_path), TASK, LABELS)


def test_a_weight_that_is_wrong_alone_is_told_by_its_own_name(folder):
    """Where other weights have the size that the config says, the config is right."""
    weights = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.1.intermediate.dense.bias"
    weights[name] = torch.zeros(9)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    told = rf"its weight '{name}' has the shape \[9\], and config\.json says \[48\]"
    with pytest.raises(DamagedCheckpoint, match=told):
        load_pretrained(str(folder), TASK, LABELS)


def test_looking_at_the_sizes_draws_no_random_number(folder):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_pretrained(str(folder), TASK, LABELS)
    assert torch.equal(torch.get_rng_state(), before)


LIMITED = """
import json, resource, sys
from trbert.errors import TrbertError
from trbert.modeling import load
from trbert.pretrained import load_pretrained
from trbert.tasks import TASKS

plain, reduced, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
load_pretrained(plain, TASKS["classification"], ("no", "yes", "maybe"))
load(reduced)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 300_000_000, taken + 300_000_000))
for name, value in cases:
    for folder, within, loads in (
        (plain, None, lambda: load_pretrained(plain, TASKS["classification"], ("no", "yes", "maybe"))),
        (reduced, "encoder", lambda: load(reduced)),
    ):
        path = folder + "/config.json"
        before = open(path).read()
        config = json.loads(before)
        (config[within] if within else config)[name] = value
        open(path, "w").write(json.dumps(config))
        try:
            loads()
        except TrbertError as error:
            print(type(error).__name__)
        open(path, "w").write(before)
"""


@pytest.mark.slow
def test_absurd_sizes_take_little_memory(folder, reduced):
    cases = [*((name, value) for name, (value, _) in (*ABSURD.items(), *REFUSED.items())), ("num_labels", 10**6)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), str(reduced), json.dumps(cases)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split().count("DamagedCheckpoint") >= 2 * len(cases) - 2, done.stdout
