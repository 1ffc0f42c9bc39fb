"""Fits the maps of the exits: from the states that enter a layer to the last states of the same tokens."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trbert.measure.evaluate import batches_by_length
from trbert.measure.halving import halved
from trbert.selection.exits import Exits
from trbert.selection.reduction import Reducer
from trbert.tasks.examples import Examples

DOCUMENTS = 400
"""About how many training documents the maps are fitted on."""
RIDGE = 1e-3
"""The penalty on the weights, as a share of the mean square of a state's numbers."""

Maps = Float[np.ndarray, "layers dim dim_and_one"]


@torch.no_grad()
def fit_exits(reducer: Reducer, train: Examples, tokens_per_batch: int) -> Maps:
    """Returns for each layer the linear map from a token's state that enters it to what the later layers add to it.

    It is the solution of a ridge regression over the tokens of some training documents, of which none is dropped: the
    W and b of least Σ |h_L − h_l − W·h_l − b|² + RIDGE · |W|². The last column of a map is b.

    Args:
        reducer: the teacher.
        train: the training examples.
        tokens_per_batch: the most tokens of a pass.
    """
    encoder = reducer.encoder
    layers = len(encoder.layers)
    few = train.spread(DOCUMENTS)

    def sums(chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Returns Σxxᵀ and Σxyᵀ of each layer: x is a state with a 1 after it, y what the later layers add to it."""
        batch = encoder.embed(few.take(chosen).to(encoder.device).tokens)
        entered = []
        for layer in range(layers):
            entered.append(batch.hidden)
            batch = encoder.run_layers(batch, layer, layer + 1)
        squares, products = [], []
        for states in entered:
            extended = torch.cat([states, states.new_ones(len(states), 1)], 1).double()
            squares.append(extended.T @ extended)
            products.append(extended.T @ (batch.hidden - states).double())
        return torch.stack(squares), torch.stack(products)

    batches = batches_by_length(few.lengths, tokens_per_batch)
    found = [each for chosen in batches for each in halved(sums, chosen)]
    squares, products = (torch.stack(each).sum(0) for each in zip(*found, strict=True))
    return ridge(squares, products).transpose(1, 2).float().cpu().numpy()


def ridge(
    squares: Float[Tensor, "layers inputs inputs"], products: Float[Tensor, "layers inputs dim"]
) -> Float[Tensor, "layers inputs dim"]:
    """Returns the weights of ridge regressions whose last input is a constant, which is as large as it need be.

    Args:
        squares: Σxxᵀ of each regression, in float64.
        products: Σxyᵀ of each regression.
    """
    penalty = RIDGE * squares.diagonal(dim1=1, dim2=2)[:, :-1].mean(1, keepdim=True).repeat(1, squares.shape[1])
    penalty[:, -1] *= 1e-9
    # Not torch.linalg.solve: on two threads of an AMD processor the LU of several such matrices fails (torch 2.13).
    return torch.cholesky_solve(products, torch.linalg.cholesky(squares + torch.diag_embed(penalty)))


def exits_at(points: tuple[int, ...], maps: Maps) -> Exits:
    """Returns the exits of these reduction points, with the maps of their layers."""
    exits = Exits(maps.shape[1], len(points))
    for number, point in enumerate(points):
        own = torch.from_numpy(maps[point])
        exits.maps[number].load_state_dict({"weight": own[:, :-1], "bias": own[:, -1]})
    return exits
