"""The assignment problem: which entries of one axis are which of another's.

Small problems are scipy's. Of large ones few pairs can be in the best assignment, and the entropic relaxation shows
which: with costs C and potentials a, b for which P = exp(−(C − a − b) / ε) has rows and columns that sum to 1
(Sinkhorn's iteration; Cuturi 2013, arXiv 1306.0895), pairs that P gives next to nothing are left out, and what remains
is solved as a sparse problem. Its optimum is that of all pairs if there are potentials u, v with u_i + v_j ≤ C_ij for
every pair, and equality for the assigned ones: shortest paths between columns give them. Pairs for which they do not
hold are put in, and the rest is done again. So the optimum is the same, for n² instead of almost n³.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGE = 1024  # rows from which on the relaxation pays
SHARPNESS = 24.0  # the mean cost, as a multiple of ε: the higher, the fewer pairs and the more iterations
ITERATIONS = 10
LEAST = 1e-3  # what P gives a pair that is looked at
ROUNDS = 10
SLACK = 1e-6  # by how much, in ε, an inequality may fail
ROWS = 128  # at a time


def assignment(similarity: Tensor) -> Tensor:
    """The permutation p that maximises Σ_i similarity[p[i], i]; similarity (n, n), rows B, columns A.

    Exact, up to n · `SLACK` · ε of the whole sum where n is `LARGE` or more.
    """
    if len(similarity) >= LARGE:
        columns = _among_likely(similarity)
        if columns is not None:
            return columns.argsort()
    return _among_all(similarity)


def _among_all(similarity: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment  # a third of a second that a plain average does not need

    # In the layout and with the sign that scipy works on, so that it makes no copies of its own.
    costs = torch.empty(similarity.shape, dtype=torch.float64).copy_(similarity.T).neg_()
    _, columns = linear_sum_assignment(costs.numpy())
    return torch.from_numpy(columns).to(torch.int64)


def _among_likely(similarity: Tensor) -> Tensor | None:
    """The column of every row; None where the relaxation does not tell pairs apart."""
    costs = _relaxed(similarity)
    if costs is None:
        return None
    rows, columns = (costs < -torch.tensor(LEAST).log()).nonzero(as_tuple=True)
    for _ in range(ROUNDS):
        own = costs[rows, columns].double()
        assigned = _sparse(rows, columns, own, len(costs))
        if assigned is None:
            return None
        attained = costs.gather(1, assigned[:, None])[:, 0].double()
        potentials = _potentials(assigned[rows], columns, own - attained[rows], len(costs))
        if potentials is None:
            return None
        missed = _missed(costs, attained - potentials[assigned], potentials)
        if not len(missed):
            return assigned
        rows, columns = torch.cat([rows, missed[:, 0]]), torch.cat([columns, missed[:, 1]])
    return None


def _relaxed(similarity: Tensor) -> Tensor | None:
    """−log P of every pair, which are its costs up to a number for every row and column, in units of ε; float32."""
    costs = similarity.float().neg()
    costs -= costs.amin(1, keepdim=True)
    costs -= costs.amin(0)
    unit = costs.mean() / SHARPNESS
    if not 0 < unit < torch.inf:
        return None
    costs /= unit
    kernel = costs.neg().exp_()
    row = kernel.new_ones(len(kernel))
    for _ in range(ITERATIONS):
        column = 1 / (row @ kernel)
        row = 1 / (kernel @ column)
    del kernel
    costs -= row.log()[:, None]
    costs -= column.log()
    return costs if bool(costs.isfinite().all()) else None


def _sparse(rows: Tensor, columns: Tensor, costs: Tensor, size: int) -> Tensor | None:
    """The column of every row in the best assignment among some pairs; None where they allow none."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    positive = costs - costs.min() + 1  # 0 would be no pair
    graph = csr_array((positive.numpy(), (rows.numpy(), columns.numpy())), shape=(size, size))
    try:
        _, assigned = min_weight_full_bipartite_matching(graph)
    except ValueError:
        return None
    return torch.from_numpy(assigned).to(torch.int64)


def _potentials(sources: Tensor, targets: Tensor, lengths: Tensor, size: int) -> Tensor | None:
    """How far every column is from the nearest, 0 or less, along edges between columns: Bellman and Ford's iteration.

    None where it goes round for ever, as it would with a circle of negative length, which an optimum has none of.
    """
    distances = lengths.new_zeros(size)
    for _ in range(size):
        nearer = distances.scatter_reduce(0, targets, distances[sources] + lengths, "amin")
        if bool((distances - nearer).max() < SLACK / 1000):
            return nearer
        distances = nearer
    return None


def _missed(costs: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The pairs whose cost is below the sum of the potentials of their row and column: (pairs, 2)."""
    found = []
    for start in range(0, len(costs), ROWS):
        part = slice(start, start + ROWS)
        below = costs[part].double().sub_(row[part, None]).sub_(column) < -SLACK
        found.append(below.nonzero() + torch.tensor([start, 0]))
    return torch.cat(found)
