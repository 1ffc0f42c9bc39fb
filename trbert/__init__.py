"""trbert: BERT-like encoders that drop, between their layers, the tokens that no longer matter for the answer.

    model = trbert.load("runs/default/models/3")

`import trbert` is fast, because torch and transformers are imported only at the first use. After it, transformers' Auto
classes load reduced models too.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trbert.checkpoint.auto_classes import register_when_loaded
from trbert.errors import (
    DamagedCheckpoint,
    InputError,
    ModelNotFound,
    RunFolderError,
    TrbertError,
    UnsupportedModel,
)

if TYPE_CHECKING:
    from trbert.modeling import (
        TrbertConfig,
        TrbertForEmbedding,
        TrbertForMultipleChoice,
        TrbertForQuestionAnswering,
        TrbertForSequenceClassification,
        TrbertForTokenClassification,
        TrbertModel,
        load,
    )
    from trbert.packed.families import Family, register_family
    from trbert.tasks.spans.answering import Answer, answer
    from trbert.tasks.vectors.embed import embed

__version__ = "0.1.0"

_MODELING = (
    "TrbertConfig",
    "TrbertForEmbedding",
    "TrbertForMultipleChoice",
    "TrbertForQuestionAnswering",
    "TrbertForSequenceClassification",
    "TrbertForTokenClassification",
    "TrbertModel",
    "load",
)
_LAZY = {
    **dict.fromkeys(_MODELING, "trbert.modeling"),
    **dict.fromkeys(("Family", "register_family"), "trbert.packed.families"),
    **dict.fromkeys(("Answer", "answer"), "trbert.tasks.spans.answering"),
    "embed": "trbert.tasks.vectors.embed",
}

__all__ = [
    "Answer",
    "DamagedCheckpoint",
    "Family",
    "InputError",
    "ModelNotFound",
    "RunFolderError",
    "TrbertConfig",
    "TrbertError",
    "TrbertForEmbedding",
    "TrbertForMultipleChoice",
    "TrbertForQuestionAnswering",
    "TrbertForSequenceClassification",
    "TrbertForTokenClassification",
    "TrbertModel",
    "UnsupportedModel",
    "answer",
    "embed",
    "load",
    "register_family",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'trbert' has no attribute {name!r}")


register_when_loaded()
