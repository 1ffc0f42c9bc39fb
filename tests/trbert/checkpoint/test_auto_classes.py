"""`import trbert` alone lets transformers' Auto classes load a reduced model, and stays light."""

import subprocess
import sys

import pytest
import transformers

import trbert
from trbert.checkpoint.auto_classes import CONFIGS
from trbert.modeling import assemble
from trbert.selection.policy import Policy
from trbert.selection.selectors import PolicySelector

ORDERS = {
    "trbert first": "import trbert, transformers",
    "transformers first": "import transformers; transformers.AutoConfig; import trbert",
    "a pipeline first": "import trbert, transformers; transformers.pipeline",
}


@pytest.fixture
def saved(bert, make_reducer, tmp_path):
    """A folder with a reduced model."""
    policy = Policy(bert.config.hidden_size, 2, width=8)
    assemble(make_reducer((0, 2)), PolicySelector(policy), 0.0, max_tokens=16).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_an_auto_class_loads_a_reduced_model_after_import_trbert_alone(order, saved):
    load = f"transformers.AutoModelForSequenceClassification.from_pretrained({str(saved)!r})"
    script = f"{order}; print(type({load}).__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "TrbertForSequenceClassification"


def test_transformers_finds_the_class_of_the_configuration_by_its_name():
    configs = sys.modules[CONFIGS]
    assert configs.CONFIG_MAPPING_NAMES["trbert"] == "TrbertConfig"
    assert transformers.CONFIG_MAPPING["trbert"] is trbert.TrbertConfig


def test_nothing_stays_in_the_way_of_other_imports():
    assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("trbert")]
