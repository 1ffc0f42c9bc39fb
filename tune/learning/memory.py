"""Estimates the memory of a process that trains."""

from trbert.encoder import Encoder
from tune.settings import Settings

PROCESS_BYTES = 5e8
"""The memory of a process that has imported torch, transformers and Ray, and holds no model."""
STATE_BYTES = 100
"""The bytes that training keeps of each token, layer and unit of width until the backward pass, in float32.

It was measured with BERT shapes on a processor, as peak memory minus weights and optimiser: 96 to 105 for 6 layers of
384 units, and 86 to 94 for 12 layers of 768 units. In bfloat16 it was 75.
"""


def training_bytes(encoder: Encoder, settings: Settings, longest: int) -> float:
    """Returns the most memory that a process of a trial needs, in bytes.

    It is PROCESS_BYTES + 4 · 4 · parameters + STATE_BYTES · tokens · layers · width. Weights, gradients and the two
    averages of AdamW have four bytes for each parameter. The tokens are those of one step of the joint stage, where
    all trajectories keep all tokens. Real trajectories drop tokens, so that they need less.

    Args:
        encoder: the encoder, with its head.
        settings: of the run.
        longest: the most tokens of a document.
    """
    joint = settings.joint
    trajectories = joint.samples + (joint.fastest > 0) if joint.documents else 1
    together = min(joint.batch_size * longest, settings.compute.tokens_per_batch)
    parameters = sum(parameter.numel() for parameter in encoder.plain.parameters())
    width = int(encoder.base.config.hidden_size)
    states = STATE_BYTES * together * trajectories * len(encoder.layers) * width
    return PROCESS_BYTES + 16 * parameters + states
