"""What a policy head sees of a document's question: how well the words around a token match those of the question.

The question is what is protected beside the first token: a question, a query, or a question with one of its options.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trbert.packed.attention import packed_attention
from trbert.packed.batch import PackedBatch, document_sums
from trbert.shapes import Hidden, TokenFloat, TokenMask

DOUBLINGS = (0, 2, 4, 5)
"""The windows in which matches are summed: the token itself, and the 7, 31 and 63 tokens around it.

A sentence has about 30 tokens. Of the answers that MiniLM gives on squad_v1, 86 % are among the half of the tokens with
the best windows of 31, before layer 0 and before layer 2 alike. A head that learned from the states of the tokens, of
their neighbours and of the document finds 59 % and 61 % (docs/results/tasks/tried.md).
"""
_DIRECTIONS = 63
"""How many numbers of a state are compared. With a constant they are 64, which a GPU's attention kernel takes."""
_SHARPNESS, _UNLIKE = 16.0, 0.3
"""The factor on a cosine similarity, and the similarity of a word of the question to nothing in particular."""
_NEVER = -1e4
_LEAST_SHARE, _LEAST_SPREAD = 1e-7, 1e-3


class Question(nn.Module):
    """Gives each token, for every window around it, how well its words match the question of its document.

    Each token j of the question spreads a weight of 1 over the tokens i that may be dropped, by softmax of 16 · s_ij,
    where s_ij is the cosine similarity of both states; what is like nothing there keeps its weight for itself, as if
    there were one more token with s = 0.3. The match of a token is the sum of what it gets. So a word of the question
    that stands everywhere in the text says little of any place, as in TF-IDF, and one that stands in one place says
    much. It is the late interaction of Khattab & Zaharia 2020 (arXiv 2004.12832), the other way round.

    States are compared in a few fixed random directions, after the mean of their document is taken away. A window's sum
    is given in standard deviations from the mean of the document. Nothing of it learns. A gradient reaches neither the
    states nor the directions.

    Args:
        dim: the width of a hidden state.
    """

    directions: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)  # the same directions in every process, whatever its seed is
        directions = torch.randn(_DIRECTIONS, dim, generator=generator, device="cpu") * dim**-0.5
        self.register_buffer("directions", directions.to(torch.get_default_device()))

    @property
    def flops_per_token(self) -> float:
        """The FLOPs of the map to the directions, for one token."""
        return 2.0 * self.directions.numel()

    @property
    def flops_per_pair(self) -> float:
        """The FLOPs of the two products of both attentions, for one pair of tokens of a document."""
        return 2 * 4.0 * (len(self.directions) + 1)

    @torch.no_grad()
    def forward(
        self, batch: PackedBatch, states: Hidden, means: Float[Tensor, "docs dim"]
    ) -> Float[Tensor, "total windows"]:
        """Returns the standardised matches of each window; those of protected tokens mean nothing.

        Args:
            batch: the remaining tokens.
            states: their hidden states, in the head's arithmetic.
            means: the mean state of each document.
        """
        centred = states - means.to(states.dtype).index_select(0, batch.documents)
        free = (~batch.protected).float()[:, None]
        count = document_sums(batch, free).clamp(min=1)
        sums = summed_around(batch, self._matches(batch, centred) * free[:, 0])
        apart = sums - (document_sums(batch, sums * free) / count).index_select(0, batch.documents)
        spread = (document_sums(batch, apart.square() * free) / count).sqrt() + _LEAST_SPREAD
        return (apart / spread.index_select(0, batch.documents)).to(states.dtype)

    def _matches(self, batch: PackedBatch, centred: Hidden) -> TokenFloat:
        """Returns for each token how much it gets of the weights of the question's tokens."""
        compared = nn.functional.normalize(nn.functional.linear(centred, self.directions.to(centred.dtype)), dim=1)
        # The first token takes the part of a constant, which is alike to every token.
        first, free = batch.positions == 0, ~batch.protected
        asked = batch.protected & ~first
        unlike = _SHARPNESS * _UNLIKE
        kept = _shares(batch, compared, free, torch.where(first, unlike, 0.0), first).clamp(min=_LEAST_SHARE)
        # Σ exp(16 · s_ij) over i, the constant's included, is exp(unlike) / kept_j. A softmax over the question and a
        # constant then gives m / (m + 1) for the sum m of what a token gets.
        share = _shares(batch, compared, asked, torch.where(first, 0.0, kept.log() - unlike), asked).clamp(max=0.999)
        return share / (1 - share)


def _shares(batch: PackedBatch, compared: Hidden, read: TokenMask, added: TokenFloat, counted: TokenMask) -> TokenFloat:
    """Returns for each token the share of its attention that counts.

    Args:
        batch: the remaining tokens.
        compared: what the scores of a pair are computed from.
        read: the tokens that are attended to, beside the first token of a document, whose scores are constant.
        added: what is added to the score of each token that is read.
        counted: whose shares count.
    """
    first = batch.positions == 0
    added = torch.where(read | first, added, _NEVER).to(compared.dtype)
    query = torch.cat([compared, torch.ones_like(compared[:, :1])], 1)
    key = torch.cat([_SHARPNESS * compared * (read & ~first)[:, None], added[:, None]], 1)
    value = counted[:, None].expand_as(key)
    query, key, value = (each[None, None].to(batch.hidden.dtype) for each in (query, key, value))
    found, _ = packed_attention(
        nn.Identity(),
        query,
        key,
        value,
        None,
        segments=batch.segments if batch.longest is None else None,
        longest=batch.longest,
        offsets=batch.offsets.int(),
        scaling=1.0,
    )
    return found[0, :, 0, 0].float()


def summed_around(batch: PackedBatch, values: TokenFloat) -> Float[Tensor, "total windows"]:
    """Returns for each token the sums of the values in windows around it, which end where its document ends.

    The sums of 2ᵏ tokens are those of two times 2ᵏ⁻¹. So they are added in the same order, whatever else is in the row.

    Example:
        >>> from trbert.packed.batch import start_batch
        >>> from trbert.packed.tokens import Tokens
        >>> batch = start_batch(Tokens.from_lists([[7, 8, 9], [7]], None), torch.zeros(4, 1))
        >>> summed_around(batch, torch.tensor([1.0, 2.0, 4.0, 8.0]))[:, :2].tolist()
        [[1.0, 7.0], [2.0, 7.0], [4.0, 7.0], [8.0, 8.0]]
    """
    place = torch.arange(len(values), device=values.device)
    first, end = (batch.offsets[batch.documents + more] for more in (0, 1))
    ahead = behind = values  # the sums of the 2ᵏ tokens from each one on, and up to it
    found = [values]
    for doubling in range(1, DOUBLINGS[-1] + 1):
        later, earlier = place + 2 ** (doubling - 1), place - 2 ** (doubling - 1)
        ahead = ahead + torch.where(later < end, ahead[later.clamp(max=len(values) - 1)], 0.0)
        behind = behind + torch.where(earlier >= first, behind[earlier.clamp(min=0)], 0.0)
        found.append(ahead + behind - values)
    return torch.stack([found[doubling] for doubling in DOUBLINGS], 1)
