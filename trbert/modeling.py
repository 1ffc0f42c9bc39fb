"""The Hugging Face face of a reduced model: config, model, Auto classes, save and load."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from trbert.encoder import Encoder
from trbert.errors import DamagedCheckpoint, InputError, ModelNotFound
from trbert.measure.cost import CostModel
from trbert.packed.tokens import Tokens
from trbert.runners import Eager, Runner, runner_of
from trbert.runners.int8 import is_quantised
from trbert.selection.fusion import Fusion
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer, check_points
from trbert.selection.selectors import Selector, selector_class, selector_of
from trbert.tasks import Task, task_of
from trbert.tasks.examples import Examples


class TrbertConfig(PreTrainedConfig):
    """What a reduced model is made of.

    Args:
        encoder: the configuration of the plain Hugging Face model, as a dictionary.
        task: what it predicts, by its name.
        points: reduction points, rising layer indices.
        policy_width: hidden width of a policy head.
        selector: which selector decides, by its name.
        policy_features: what the policy's heads see beside a token's own state.
        dial: of the selector; lower is faster.
        max_tokens: tokens at which documents were truncated in training.
        fusion: whether what is dropped leaves its mean in the first token's state.
        **kwargs: Hugging Face's own.
    """

    model_type = "trbert"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        task: str = "classification",
        points: Sequence[int] = (0,),
        policy_width: int = 32,
        selector: str = "policy",
        policy_features: Sequence[str] = (),
        dial: float = 0.0,
        max_tokens: int = 512,
        fusion: bool = False,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or {"model_type": "bert"}
        self.task = task
        self.points = tuple(points)
        self.policy_width = policy_width
        self.selector = selector
        self.policy_features = tuple(policy_features)
        self.dial = dial
        self.max_tokens = max_tokens
        self.fusion = fusion
        own = self.encoder_config()
        for name in ("id2label", "label2id", "pad_token_id"):
            kwargs.setdefault(name, getattr(own, name))
        super().__init__(**kwargs)

    def encoder_config(self) -> PreTrainedConfig:
        """Returns the plain model's own configuration."""
        values = {name: value for name, value in self.encoder.items() if name != "model_type"}
        return AutoConfig.for_model(self.encoder["model_type"], **values)


class TrbertModel(PreTrainedModel):
    """A Hugging Face model that drops tokens on its way, for any task.

    Takes `input_ids`, `attention_mask` and, where the family has them, `token_type_ids`, padded on either side; runs
    packed, without padding; returns an ordinary `SequenceClassifierOutput`. A document's logits do not depend on its
    batch mates. `model.config.dial` moves between quality and cost.
    """

    config_class = TrbertConfig
    base_model_prefix = "plain"
    # It takes **kwargs to refuse them by name, and the Trainer would pass it how many labels a step has.
    accepts_loss_kwargs = False
    _supports_sdpa = True

    def __init__(self, config: TrbertConfig) -> None:
        super().__init__(config)
        self.plain = task_of(config.task).auto_class.from_config(config.encoder_config())
        own = self.plain.config
        check_points(config.points, own.num_hidden_layers)
        heads = len(config.points) if selector_class(config.selector).learns else 0
        self.policy = Policy(own.hidden_size, heads, config.policy_width, config.policy_features)
        self.fusion = Fusion(own.hidden_size, len(config.points) if config.fusion else 0)
        self.runner: Runner = Eager()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leaves weights as their modules initialise them."""

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Saves the model, with Hugging Face's own arguments.

        Raises:
            InputError: Its layers run in int8, which no checkpoint holds.
        """
        if is_quantised(self):
            raise InputError("a model in int8 cannot be saved, for it has lost its weights: save it as loaded without")
        return super().save_pretrained(*args, **kwargs)

    @property
    def task(self) -> Task:
        """What the model predicts."""
        return task_of(self.config.task)

    @property
    def reducer(self) -> Reducer:
        """The model in stages; made anew, since modules may be swapped (quantised, compiled) at any time."""
        return Reducer(
            encoder=Encoder(self.plain, self.runner),
            task=self.task,
            points=tuple(self.config.points),
            fusion=self.fusion,
        )

    @property
    def selector(self) -> Selector:
        """What decides which tokens go on."""
        return selector_of(self.config.selector, self.policy)

    def cost_model(self) -> CostModel:
        """Returns what a forward pass of this model costs."""
        return CostModel.of(self.reducer, self.policy)

    def run_with(self, runner: Runner) -> None:
        """Has the layers run by another runner from now on; some change the layers, in place.

        Raises:
            InputError: The runner cannot run this model where it is.
        """
        runner.adopt(self.plain, Encoder(self.plain).layers)
        self.runner = runner

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = True,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Returns loss (where labels are given) and logits [docs, classes] of the reduced forward pass.

        Raises:
            InputError: A document has no token or too many, or an argument of the padded model was passed that has no
                meaning for a reduced one.
        """
        unknown = sorted(name for name, value in kwargs.items() if value is not None and value is not False)
        if unknown:
            raise InputError(
                f"a reduced model takes input_ids, attention_mask, token_type_ids and labels, and was passed "
                f"{', '.join(unknown)}: leave it out (states and attentions of dropped tokens do not exist)"
            )
        task, reducer = self.task, self.reducer
        tokens = task.protect(Tokens.from_padded(input_ids, attention_mask, token_type_ids))
        outputs = reducer.outputs(reducer.run(self.selector, tokens, self.config.dial))
        loss = None
        if labels is not None:
            loss = task.loss(outputs, Examples.of_documents(tokens, labels, task.reads)).mean()
        answer = SequenceClassifierOutput(loss=loss, logits=outputs)
        return answer.to_tuple() if return_dict is False else answer


class TrbertForSequenceClassification(TrbertModel):
    """A reduced model that says a class of each document; Hugging Face's Auto class finds it."""


MODELS: dict[str, type[TrbertModel]] = {"AutoModelForSequenceClassification": TrbertForSequenceClassification}
"""The reduced model's class by its task's head, where an Auto class is to find it; elsewhere `TrbertModel` itself."""


def model_class(task: Task) -> type[TrbertModel]:
    """Returns the class of a task's reduced models."""
    return MODELS.get(task.head, TrbertModel)


def assemble(reducer: Reducer, selector: Selector, dial: float, max_tokens: int) -> TrbertModel:
    """Returns the deployable model of a trained one; the weights are shared, not copied.

    Args:
        reducer: the trained model.
        selector: decides, by its policy, which has no heads where the selector does not learn.
        dial: of the selector.
        max_tokens: tokens at which documents were truncated in training.
    """
    plain = reducer.encoder.plain
    encoder = {**plain.config.to_diff_dict(), "model_type": plain.config.model_type}
    for transient in ("_attn_implementation", "attn_implementation", "transformers_version", "dtype"):
        encoder.pop(transient, None)
    encoder["id2label"] = {int(k): v for k, v in plain.config.id2label.items()}
    encoder["label2id"] = dict(plain.config.label2id)
    config = TrbertConfig(
        encoder=encoder,
        task=reducer.task.name,
        points=reducer.points,
        policy_width=selector.policy.width,
        selector=selector.name,
        policy_features=selector.policy.features,
        dial=dial,
        max_tokens=max_tokens,
        fusion=len(reducer.fusion.maps) > 0,
    )
    with torch.device("meta"):
        model = model_class(reducer.task)(config)
    model.plain, model.policy, model.fusion = plain, selector.policy, reducer.fusion
    return model.eval()


def load(path: str | Path, dial: float | None = None, runner: str = "eager") -> TrbertModel:
    """Returns a saved reduced model, ready to use.

    Args:
        path: folder of the model: `config.json`, `model.safetensors`.
        dial: replaces the saved dial.
        runner: how its layers are run. "eager" calls them one after the other. "compiled" runs them through
            `torch.compile` where no gradient is wanted: it takes seconds to compile at first use, and on a CPU it needs
            a C++ compiler. "int8" runs their matrix products in int8, on a CPU, neither to learn nor to save.

    Raises:
        InputError: It is another kind of model, or there is no such runner, or it does not run here.
        ModelNotFound: There is no such folder.
        DamagedCheckpoint: Its files are missing, truncated, or do not fit together.
    """
    way = runner_of(runner)
    folder = Path(path)
    if not folder.is_dir():
        raise ModelNotFound(f"path must be a folder with a saved model, and is {str(path)!r}, which does not exist")
    task = _check_folder(folder)
    try:
        loaded: Any = model_class(task).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (SafetensorError, RuntimeError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{folder} does not hold a whole model ({error}): copy or save it again") from error
    model: TrbertModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    wrong = sorted(
        {*report["missing_keys"], *report["unexpected_keys"], *(key[0] for key in report["mismatched_keys"])}
    )
    if wrong:
        raise DamagedCheckpoint(
            f"{folder}/model.safetensors does not fit config.json: {', '.join(wrong[:3])}"
            f"{' and more' if len(wrong) > 3 else ''}: copy or save it again"
        )
    if dial is not None:
        model.config.dial = float(dial)
    model.run_with(way)
    return model.eval()


def _check_folder(folder: Path) -> Task:
    """Returns the task of the model in a folder, once the folder is known to hold one that this version knows."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise DamagedCheckpoint(f"{folder} must hold {name}, and does not: copy or save the model again")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{folder}/config.json is no JSON object ({error}): copy it again") from error
    if kind != TrbertConfig.model_type:
        raise InputError(
            f"model_type in {folder}/config.json must be 'trbert', and is {kind!r}: "
            "load a plain model with transformers, or reduce it with tune/search.py --model"
        )
    if "task" not in config:
        raise InputError(
            f"{folder}/config.json must name its task, and does not, for an older version of trbert saved it: "
            "search again with this version, or load it with that one"
        )
    selector_class(config.get("selector", TrbertConfig().selector))
    return task_of(config["task"])


AutoConfig.register(TrbertConfig.model_type, TrbertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(TrbertConfig, TrbertForSequenceClassification, exist_ok=True)
