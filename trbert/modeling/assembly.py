"""Makes a Hugging Face model of the parts that were trained."""

import torch

from trbert.modeling.config import NOT_SAVED, TrbertConfig
from trbert.modeling.heads import model_class
from trbert.modeling.model import TrbertModel
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import Selector


def assemble(reducer: Reducer, selector: Selector, dial: float, max_tokens: int) -> TrbertModel:
    """Returns a trained model as a Hugging Face model. The weights are shared, not copied.

    Args:
        reducer: the trained model.
        selector: the selector, with its policy. The policy has no heads where the selector does not learn.
        dial: the dial of the selector.
        max_tokens: the most tokens of a document in training; longer documents were truncated.
    """
    plain = reducer.encoder.plain
    encoder = {**plain.config.to_diff_dict(), "model_type": plain.config.model_type}
    for name in NOT_SAVED:
        encoder.pop(name, None)
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
        exits=len(reducer.exits.maps) > 0,
        separator=reducer.separator,
    )
    with torch.device("meta"):
        model = model_class(reducer.task)(config)
    model.plain, model.policy = plain, selector.policy
    model.fusion, model.exits = reducer.fusion, reducer.exits
    return model.eval()
