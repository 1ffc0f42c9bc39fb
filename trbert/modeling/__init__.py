"""The reduced model as a Hugging Face model: its config, its heads, how it is assembled, and how it is loaded."""

from trbert.modeling.assembly import assemble
from trbert.modeling.config import TrbertConfig
from trbert.modeling.heads import (
    MODELS,
    EmbeddingOutput,
    TrbertForEmbedding,
    TrbertForMultipleChoice,
    TrbertForQuestionAnswering,
    TrbertForSequenceClassification,
    TrbertForTokenClassification,
    model_class,
)
from trbert.modeling.loading import load, try_out
from trbert.modeling.model import TrbertModel

__all__ = [
    "MODELS",
    "EmbeddingOutput",
    "TrbertConfig",
    "TrbertForEmbedding",
    "TrbertForMultipleChoice",
    "TrbertForQuestionAnswering",
    "TrbertForSequenceClassification",
    "TrbertForTokenClassification",
    "TrbertModel",
    "assemble",
    "load",
    "model_class",
    "try_out",
]
