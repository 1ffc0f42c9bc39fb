"""The configuration of a reduced model."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

NOT_SAVED = (
    *("_attn_implementation", "attn_implementation", "transformers_version", "dtype"),
    *("output_attentions", "output_hidden_states", "return_dict", "torchscript"),
)
"""Settings of an encoder that a reduced model does not keep: how it was run, and in which form it returned what."""


class TrbertConfig(PreTrainedConfig):
    """The configuration of a reduced model.

    Args:
        encoder: the configuration of the plain Hugging Face model, as a dictionary.
        task: the name of the task.
        points: the reduction points, as rising layer indices.
        policy_width: the width of the inner layer of a policy head.
        selector: the name of the selector.
        policy_features: what the policy heads see beside a token's own state, as names.
        dial: the dial of the selector; lower is faster.
        max_tokens: the most tokens of a document in training; longer documents were truncated.
        fusion: whether the mean of the dropped tokens is added to the first token's state.
        exits: whether the states of dropped tokens are mapped before the head reads them.
        separator: the id of the token that ends the first part of a document, where the task protects a part such as
            the question; None protects none.
        **kwargs: Hugging Face's own arguments.
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
        exits: bool = False,
        separator: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.exits = exits
        self.separator = separator
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
        for name in ("id2label", "label2id", "pad_token_id", "problem_type"):
            kwargs.setdefault(name, getattr(own, name))
        super().__init__(**kwargs)

    def encoder_config(self) -> PreTrainedConfig:
        """Returns the configuration of the plain model."""
        values = {name: value for name, value in self.encoder.items() if name not in ("model_type", *NOT_SAVED)}
        return AutoConfig.for_model(self.encoder["model_type"], **values)
