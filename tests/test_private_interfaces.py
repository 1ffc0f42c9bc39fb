"""The interfaces of other packages that trbert uses and that they do not promise to keep, each with one test.

Where a new version of a package breaks one, the name of its test says which package, and the docstring says what of
trbert depends on it. An interface that is added to the code is added here.
"""

import importlib.util
import inspect
import mmap
from pathlib import Path

import datasets
import pytest
import ray
import torch
import transformers
from ray import tune
from ray._private import ray_constants
from ray.tune.search.optuna import OptunaSearch
from transformers.models.auto import configuration_auto


def source(module):
    """Returns the text of an installed module, without importing it."""
    package, _, rest = module.partition(".")
    folder = Path(importlib.util.find_spec(package).origin).parent
    return (folder / f"{rest.replace('.', '/')}.py").read_text()


def parameters(module):
    """Returns the names of what a module takes."""
    return set(inspect.signature(module.forward).parameters)


# transformers


@pytest.mark.parametrize("name", ["BertLayer", "RobertaLayer", "DistilBertSelfAttention", "ModernBertEncoderLayer"])
def test_transformers_layers_pass_keyword_arguments_on_to_the_attention(name):
    """`trbert.packed.attention`: a layer is told by keywords which tokens of a row make a document."""
    family = {"B": "bert", "R": "roberta", "D": "distilbert", "M": "modernbert"}[name[0]]
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    kinds = {each.kind for each in inspect.signature(getattr(module, name).forward).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD in kinds


def test_transformers_attention_is_looked_up_by_its_name_in_the_config():
    """`trbert.encoder`: the packed attention is set by `set_attn_implementation`, and read from the config."""
    config = transformers.BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    model = transformers.BertModel(config)
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert model.encoder.layer[0].attention.self.config._attn_implementation == "eager"


def test_transformers_auto_classes_know_for_which_configurations_they_have_a_head():
    """`trbert.pretrained`: a family without the head of a task is refused by its own name."""
    mapping = transformers.AutoModelForMultipleChoice._model_mapping
    assert transformers.BertConfig in mapping
    assert transformers.NomicBertConfig not in mapping


def test_transformers_mpnet_takes_its_relative_bias_by_a_keyword_and_has_the_parts_that_are_exchanged():
    """`trbert.packed.mpnet`: the bias is computed as `compute_position_bias` does, for positions of our own."""
    config = transformers.MPNetConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    model = transformers.MPNetModel(config)
    layer = model.encoder.layer[0]
    assert {"q", "k", "v", "o"} <= layer.attention.attn._modules.keys()
    assert {"attention_mask", "position_bias", "output_attentions"} <= parameters(layer.attention.attn)
    for part in ("LayerNorm", "dropout"):
        assert callable(getattr(layer.attention, part))
    assert callable(layer.output)
    assert callable(layer.intermediate)
    assert model.embeddings.padding_idx == 1
    difference = torch.arange(5)[None] - torch.arange(5)[:, None]  # key − query
    bias = model.encoder.relative_attention_bias(model.encoder.relative_position_bucket(difference))
    assert torch.equal(bias.permute(2, 0, 1)[None], model.encoder.compute_position_bias(torch.empty(1, 5, 8)))


def test_transformers_deberta_takes_its_relative_positions_by_keywords_and_has_the_parts_that_are_exchanged():
    """`trbert.packed.deberta`: the attention gets mapped states, and one relative position for all or for each head."""
    config = transformers.DebertaV2Config(
        **{"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8},
        **{"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "conv_kernel_size": 3},
    )
    encoder = transformers.DebertaV2Model(config).encoder
    layer, conv = encoder.layer[0], encoder.conv
    own = layer.attention.self
    maps = {"query_proj", "key_proj", "value_proj", "pos_query_proj", "pos_key_proj", "pos_dropout"}
    assert maps <= own._modules.keys()
    assert {"attention_mask", "relative_pos", "rel_embeddings"} <= parameters(own)
    assert (own.pos_ebd_size, own.num_attention_heads, own.share_att_key) == (512, 2, False)
    assert {"hidden_states", "input_tensor"} == parameters(layer.attention.output)
    assert (conv.conv_act, conv.conv.kernel_size) == ("tanh", (3,))
    assert encoder.get_rel_embedding().shape == (1024, 8)
    assert encoder.get_rel_pos(torch.empty(1, 3, 0), torch.empty(1, 1, 0)).tolist() == [[[0, -1, -2]]]


def test_transformers_draws_weights_anew_that_are_marked_so():
    """`trbert.pretrained`: a new head is drawn by `initialize_weights`, where `_is_hf_initialized` is false."""
    config = transformers.BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    model = transformers.BertForSequenceClassification(config)
    torch.nn.init.constant_(model.classifier.weight, 5.0)
    for part in (model, model.classifier, *model.classifier.parameters()):
        part._is_hf_initialized = False
    model.initialize_weights()
    assert float(model.classifier.weight.detach().abs().max()) < 1.0


def test_transformers_auto_classes_know_a_configuration_by_its_name():
    """`trbert.checkpoint.auto_classes`: after `import trbert` alone, Auto classes load reduced models."""
    assert isinstance(configuration_auto.CONFIG_MAPPING_NAMES, dict)
    assert configuration_auto.CONFIG_MAPPING._mapping is configuration_auto.CONFIG_MAPPING_NAMES
    assert isinstance(configuration_auto.CONFIG_MAPPING._modules, dict)
    assert configuration_auto.CONFIG_MAPPING_NAMES["bert"] == "BertConfig"


def test_transformers_keeps_the_origin_of_a_config():
    """`trbert.checkpoint.config`: a config that was read is given the name of its place."""
    assert transformers.BertConfig()._name_or_path == ""


# torch


def test_torch_keeps_the_modules_of_a_module_in_a_dictionary():
    """`trbert.encoder`: a head runs as it is written, over an encoder that was exchanged in `_modules`."""
    outer = torch.nn.Sequential(torch.nn.Linear(2, 2))
    outer._modules["0"] = torch.nn.Identity()
    assert torch.equal(outer(torch.ones(1, 2)), torch.ones(1, 2))


def test_torch_has_the_products_in_int8_of_onednn():
    """`trbert.runners.int8`: layers are multiplied by `onednn.qlinear_prepack` and `qlinear_pointwise`."""
    pointwise = str(torch.ops.onednn.qlinear_pointwise.default._schema)
    taken = ("qx", "x_scale", "x_zero_point", "qw", "w_scale", "w_zero_point", "bias", "output_scale")
    places = [pointwise.index(f" {name}") for name in taken]
    assert places == sorted(places)
    assert "weight" in str(torch.ops.onednn.qlinear_prepack.default._schema)


def test_torch_tells_what_the_processor_can():
    """`trbert.runners.int8`: whether int8 products are exact depends on the processor's instructions."""
    assert "architecture" in torch.cpu.get_capabilities()


# Ray


READ = {
    "RAY_CHDIR_TO_TRIAL_DIR": "ray.tune.trainable.trainable",
    "RAY_AIR_NEW_OUTPUT": "ray.tune.tune",
    "RAY_LOG_TO_STDERR": "ray._private.ray_constants",
    "RAY_TMPDIR": "ray._common.utils",
    "TUNE_GLOBAL_CHECKPOINT_S": "ray.tune.execution.tune_controller",
    "TUNE_DISABLE_SIGINT_HANDLER": "ray.tune.tune",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "ray.tune.execution.tune_controller",
    "RAY_UP_enable_autoscaler_v2": "ray.autoscaler._private.commands",
    "RAY_AUTOSCALER_RECONCILE_REQUEST_STATUS_TIMEOUT_S": "ray.autoscaler.v2.instance_manager.config",
}


@pytest.mark.parametrize("variable", READ)
def test_ray_reads_a_variable_that_is_set_for_it(variable):
    """`tune/search.py`, cluster.yaml: what each is for stands in docs/clusters.md."""
    assert variable in source(READ[variable])


@pytest.mark.parametrize(
    "name", ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "health_check_period_ms", "health_check_timeout_ms"]
)
def test_rays_core_reads_a_variable_that_is_set_for_it(name):
    """`tune.driver`, cluster.yaml: tokens keep strangers out, and health checks notice a lost machine."""
    with (Path(ray.__file__).parent / "_raylet.so").open("rb") as file:
        core = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert core.find(name.encode()) > 0


def test_ray_has_a_mode_for_one_machine_that_listens_on_loopback():
    """`tune.driver`: a local search is open to this machine alone; tests/tune/test_listening.py sees the sockets."""
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    assert "ray_constants.ENABLE_RAY_CLUSTER" in source("ray._private.services")


def test_ray_tune_knows_from_its_folder_whether_a_search_can_be_restored():
    """`tune.driver`: a resumed search goes on from Tune's own files, and unfinished trials with it."""
    assert {"path", "trainable", "resume_unfinished", "restart_errored"} <= inspect.signature(
        tune.Tuner.restore
    ).parameters.keys()
    assert callable(tune.Tuner.can_restore)


def test_rays_searcher_of_optuna_takes_several_metrics_and_first_guesses():
    """`tune.suggestions`: the searcher of a front has two metrics and starts at chosen points."""
    known = inspect.signature(OptunaSearch.__init__).parameters.keys()
    assert {"space", "metric", "mode", "points_to_evaluate", "sampler"} <= known


# datasets


def test_datasets_saves_a_folder_with_the_files_by_which_it_is_known(tmp_path):
    """`trbert.data.hub`: a folder that `save_to_disk` wrote is known by these names."""
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "one")
    assert {"state.json", "dataset_info.json"} <= {path.name for path in (tmp_path / "one").iterdir()}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(tmp_path / "all")
    assert (tmp_path / "all" / "dataset_dict.json").is_file()


def test_datasets_names_a_cached_data_set_by_its_name_with_underscores():
    """`trbert.data.hub`: without the hub, a data set counts as known where its folder is in the cache."""
    assert datasets.config.HF_DATASETS_CACHE
    assert "___" in source("datasets.builder")
