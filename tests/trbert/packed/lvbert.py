"""A model as somebody else might write it, with a family for it: layers of attention, and one convolution of tokens."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertPooler, BertPreTrainedModel

from trbert import Family

FAMILY = Family(model_type="lvbert-toy", layers="blocks", pooler="pooler", by_document=("ConvLayer",))


class LvBertConfig(BertConfig):
    model_type = "lvbert-toy"


class ConvLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.conv = nn.Conv1d(config.hidden_size, config.hidden_size, 3, padding=1, groups=2)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, hidden_states, attention_mask=None):
        return self.norm(hidden_states + self.conv(hidden_states.mT).mT)


class LvBertPreTrainedModel(BertPreTrainedModel):
    config_class = LvBertConfig
    base_model_prefix = "lvbert"


class LvBertModel(LvBertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        kinds = [ConvLayer if index == 1 else BertLayer for index in range(config.num_hidden_layers)]
        self.blocks = nn.ModuleList(kind(config) for kind in kinds)
        self.pooler = BertPooler(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None):
        states = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        for block in self.blocks:
            states = block(states, attention_mask=mask)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=self.pooler(states))


class LvBertForSequenceClassification(LvBertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.lvbert = LvBertModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, inputs_embeds=None, return_dict=True):
        inputs = {} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        found = self.lvbert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, **inputs)
        return SequenceClassifierOutput(logits=self.classifier(found.pooler_output))


AutoConfig.register("lvbert-toy", LvBertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(LvBertConfig, LvBertForSequenceClassification, exist_ok=True)


def small_model():
    """Returns a model of four layers with random weights, large enough that a wrong token or position shows."""
    config = LvBertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = LvBertForSequenceClassification(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model
