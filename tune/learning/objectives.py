"""The losses and advantages of learning the policy, as functions of tensors."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def leave_one_out_advantages(returns: Float[Tensor, "*points samples docs"]) -> Float[Tensor, "*points samples docs"]:
    """Returns A_k = R_k − the mean return of the same document's other samples (RLOO, Kool et al. 2019).

    The baseline does not depend on the actions of sample k, so that the gradient stays unbiased.

    Example:
        >>> leave_one_out_advantages(torch.tensor([[1.0], [2.0], [6.0]]))[:, 0].tolist()  # 1−4, 2−3.5, 6−1.5
        [-3.0, -1.5, 4.5]
    """
    samples = returns.shape[-2]
    if samples < 2:
        raise ValueError(f"samples must be at least 2 for a leave-one-out baseline, and is {samples}")
    return (returns - returns.mean(-2, keepdim=True)) * (samples / (samples - 1))


def mean_advantages(returns: Float[Tensor, "*points samples docs"]) -> Float[Tensor, "*points samples docs"]:
    """Returns A_k = R_k − the mean return of all samples of the document, as in the original TR-BERT code.

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

    Its gradient is that of −J/√n, averaged over documents. J is the expected return. n is the original length, which
    no action changes.

    Args:
        log_prob: log π of each trajectory's decisions at each point, summed over unprotected tokens, in nats.
        advantages: A at each point, or one row for all points, in nats; no gradient flows through them.
        lengths: n, the number of original tokens of each document.

    Example:
        >>> policy_gradient_loss(torch.tensor([[[-2.0]]]), torch.tensor([[[3.0]]]), torch.tensor([4])).item()  # 3·2/√4
        3.0
    """
    return -(advantages.detach() * log_prob / lengths.sqrt()).sum(0).mean()


def imitation_loss(logits: Float[Tensor, " total"], targets: Tensor, weights: Tensor) -> Float[Tensor, ""]:
    """Returns the mean binary cross-entropy of keep logits against a target mask, over the tokens of weight 1."""
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1)
