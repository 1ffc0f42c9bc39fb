"""Losses and advantages: pure functions of tensors."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trbert.shapes import Logits


def leave_one_out_advantages(returns: Float[Tensor, "*points samples docs"]) -> Float[Tensor, "*points samples docs"]:
    """Returns A_k = R_k − mean of the other samples' returns of the same document (RLOO, Kool et al. 2019).

    The baseline does not depend on sample k's actions, so that the gradient stays unbiased.

    Example:
        >>> leave_one_out_advantages(torch.tensor([[1.0], [2.0], [6.0]]))[:, 0].tolist()  # 1−4, 2−3.5, 6−1.5
        [-3.0, -1.5, 4.5]
    """
    samples = returns.shape[-2]
    if samples < 2:
        raise ValueError(f"samples must be at least 2 for a leave-one-out baseline, and is {samples}")
    return (returns - returns.mean(-2, keepdim=True)) * (samples / (samples - 1))


def mean_advantages(returns: Float[Tensor, "*points samples docs"]) -> Float[Tensor, "*points samples docs"]:
    """Returns A_k = R_k − mean return of the document, own sample included: the original TR-BERT code's baseline.

    Example:
        >>> mean_advantages(torch.tensor([[1.0], [2.0], [6.0]]))[:, 0].tolist()
        [-2.0, -1.0, 3.0]
    """
    return returns - returns.mean(-2, keepdim=True)


def policy_gradient_loss(
    log_prob: Float[Tensor, "points samples docs"],
    advantages: Float[Tensor, "_points samples docs"],
    lengths: Int[Tensor, " docs"],
) -> Float[Tensor, ""]:
    """Returns −mean over samples and documents of Σ_points A · log π / √n (REINFORCE, Williams 1992).

    Its gradient is that of −n^(−1/2)·J averaged over documents: n is the original length, which no action changes.

    Args:
        log_prob: log π of each trajectory's decisions at each point, summed over unprotected tokens, in nats.
        advantages: of each point, or one for all points; constants, no gradient flows through them.
        lengths: original tokens of each document.

    Example:
        >>> policy_gradient_loss(torch.tensor([[[-2.0]]]), torch.tensor([[[3.0]]]), torch.tensor([4])).item()  # 3·2/√4
        3.0
    """
    return -(advantages.detach() * log_prob / lengths.sqrt()).sum(0).mean()


def distillation_loss(logits: Logits, teacher_logits: Logits, temperature: float = 1.0) -> Float[Tensor, ""]:
    """Returns T² · mean cross-entropy against the teacher's softened distribution (Hinton et al. 2015, section 2).

    Example:
        >>> round(distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2)).item(), 4)  # log 2
        0.6931
    """
    target = (teacher_logits.float() / temperature).softmax(-1)
    return -(temperature**2) * (target * (logits.float() / temperature).log_softmax(-1)).sum(-1).mean()


def predictive_information(logits: Logits, labels: Int[Tensor, " docs"]) -> float:
    """Returns H(Y) − mean −log p(y), in nats: what a model knows of these labels beyond their frequencies.

    The predictive V-information of Xu et al. (ICLR 2020, definition 2), whose model without input says frequencies.

    Args:
        logits: the model's, of each document.
        labels: the documents' classes.

    Example:
        >>> sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
        >>> round(predictive_information(sure, torch.tensor([0, 1])), 4)  # all of log 2
        0.6931
        >>> predictive_information(torch.zeros(2, 2), torch.tensor([0, 1]))  # nothing
        0.0
    """
    shares = torch.bincount(labels).double() / len(labels)
    surprise = torch.nn.functional.cross_entropy(logits.double(), labels)
    return float(torch.special.entr(shares).sum() - surprise)


def imitation_loss(logits: Float[Tensor, " total"], targets: Tensor, weights: Tensor) -> Float[Tensor, ""]:
    """Returns the mean binary cross-entropy of keep logits against a target mask, over tokens of weight 1."""
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1)
