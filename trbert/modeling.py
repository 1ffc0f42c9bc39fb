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

from trbert.encoder import CompiledStages, Encoder
from trbert.errors import DamagedCheckpoint, InputError, ModelNotFound
from trbert.measure.cost import CostModel
from trbert.packed.tokens import Tokens
from trbert.runners.int8 import is_quantised, quantise
from trbert.selection.fusion import Fusion
from trbert.selection.policy import Feature, Policy
from trbert.selection.reduction import check_points, reduced_forward
from trbert.selection.selectors import LEARNED, Selector, selector_of


class TrbertConfig(PreTrainedConfig):
    """What a reduced model is made of.

    Args:
        encoder: the configuration of the Hugging Face classifier, as a dictionary.
        points: reduction points, rising layer indices.
        policy_width: hidden width of a policy head.
        selector: which rule decides, by its name.
        policy_features: what its heads see beside a token's own state.
        dial: of the selector; lower is faster.
        max_tokens: tokens at which documents were truncated in training.
        fusion: whether what is dropped leaves its mean in the first token's state.
        **kwargs: Hugging Face's own.
    """

    model_type = "trbert"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        points: Sequence[int] = (0,),
        policy_width: int = 32,
        selector: str = "policy",
        policy_features: Sequence[Feature] = (),
        dial: float = 0.0,
        max_tokens: int = 512,
        fusion: bool = False,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or {"model_type": "bert"}
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
        """Returns the classifier's own configuration."""
        values = {name: value for name, value in self.encoder.items() if name != "model_type"}
        return AutoConfig.for_model(self.encoder["model_type"], **values)


class TrbertForSequenceClassification(PreTrainedModel):
    """A Hugging Face classifier that drops tokens on its way.

    Takes `input_ids`, `attention_mask` and, where the family has them, `token_type_ids`, padded on either side; runs
    packed, without padding; returns an ordinary `SequenceClassifierOutput`. A document's logits do not depend on its
    batch mates. `model.config.dial` moves between quality and cost.
    """

    config_class = TrbertConfig
    base_model_prefix = "classifier"
    # It takes **kwargs to refuse them by name, and the Trainer would pass it how many labels a step has.
    accepts_loss_kwargs = False
    _supports_sdpa = True

    def __init__(self, config: TrbertConfig) -> None:
        super().__init__(config)
        self.classifier = AutoModelForSequenceClassification.from_config(config.encoder_config())
        own = self.classifier.config
        check_points(config.points, own.num_hidden_layers)
        heads = len(config.points) if config.selector in LEARNED else 0
        self.policy = Policy(own.hidden_size, heads, config.policy_width, config.policy_features)
        self.fusion = Fusion(own.hidden_size, len(config.points) if config.fusion else 0)
        self.compiled: CompiledStages | None = None
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
    def staged(self) -> Encoder:
        """The classifier in stages; made anew, since modules may be swapped (quantised, compiled) at any time."""
        return Encoder(self.classifier, self.compiled, self.fusion)

    @property
    def selector(self) -> Selector:
        """What decides which tokens go on."""
        return selector_of(self.config.selector, self.policy)

    def cost_model(self) -> CostModel:
        """Returns what a forward pass of this model costs."""
        return CostModel.of(self.staged, self.policy)

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
        tokens = Tokens.from_padded(input_ids, attention_mask, token_type_ids)
        encoder = self.staged
        reduced = reduced_forward(encoder, self.selector, tokens, tuple(self.config.points), self.config.dial)
        output = encoder.finish(reduced.batch, labels=labels)
        answer = SequenceClassifierOutput(loss=output.loss, logits=output.logits)
        return answer.to_tuple() if return_dict is False else answer


def assemble(
    classifier: Any,
    policy: Policy,
    points: tuple[int, ...],
    dial: float,
    max_tokens: int,
    selector: str = "policy",
    fusion: Fusion | None = None,
) -> TrbertForSequenceClassification:
    """Returns the deployable model of a trained classifier, policy and fusion; the weights are shared, not copied.

    A selector that does not learn comes with a policy of no heads.
    """
    encoder = {**classifier.config.to_diff_dict(), "model_type": classifier.config.model_type}
    for transient in ("_attn_implementation", "attn_implementation", "transformers_version", "dtype"):
        encoder.pop(transient, None)
    encoder["id2label"] = {int(k): v for k, v in classifier.config.id2label.items()}
    encoder["label2id"] = dict(classifier.config.label2id)
    config = TrbertConfig(
        encoder=encoder,
        points=points,
        policy_width=policy.width,
        selector=selector,
        policy_features=policy.features,
        dial=dial,
        max_tokens=max_tokens,
        fusion=fusion is not None and len(fusion.maps) > 0,
    )
    with torch.device("meta"):
        model = TrbertForSequenceClassification(config)
    model.classifier, model.policy = classifier, policy
    if fusion is not None:
        model.fusion = fusion
    return model.eval()


def load(
    path: str | Path, dial: float | None = None, int8: bool = False, compiled: bool = False
) -> TrbertForSequenceClassification:
    """Returns a saved reduced model, ready to use.

    Args:
        path: folder of the model: `config.json`, `model.safetensors`.
        dial: replaces the saved dial.
        int8: run the layers' matrix products in int8, on a CPU (`trbert.runners.int8`); not to learn or save.
        compiled: run the layers through `torch.compile` where no gradient is wanted: seconds to compile at first use,
            whatever the lengths are after it; on a CPU it needs a C++ compiler there.

    Raises:
        InputError: It is another kind of model, int8 was asked for where it does not run, or both at once.
        ModelNotFound: There is no such folder.
        DamagedCheckpoint: Its files are missing, truncated, or do not fit together.
    """
    if int8 and compiled:
        raise InputError("int8 and compiled exclude each other, and both were asked for: leave one out")
    folder = Path(path)
    if not folder.is_dir():
        raise ModelNotFound(f"path must be a folder with a saved model, and is {str(path)!r}, which does not exist")
    _check_folder(folder)
    try:
        loaded: Any = TrbertForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (SafetensorError, RuntimeError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{folder} does not hold a whole model ({error}): copy or save it again") from error
    model: TrbertForSequenceClassification = loaded[0]
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
    if int8:
        quantise(model.staged)
    if compiled:
        model.compiled = CompiledStages()
    return model.eval()


def _check_folder(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise DamagedCheckpoint(f"{folder} must hold {name}, and does not: copy or save the model again")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{folder}/config.json is no JSON object ({error}): copy it again") from error
    if kind != TrbertConfig.model_type:
        raise InputError(
            f"model_type in {folder}/config.json must be 'trbert', and is {kind!r}: "
            "load a plain model with transformers, or reduce it with tune/search.py --model"
        )


AutoConfig.register(TrbertConfig.model_type, TrbertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(TrbertConfig, TrbertForSequenceClassification, exist_ok=True)
