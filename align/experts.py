"""Matching experts: MLPs that a router chooses among, each of which has its own order of neurons.

Two experts are compared by the router's rows and by how alike their neurons can be at most, where every neuron takes
the one most like it: an upper bound of what the assignment of one's neurons to the other's attains, for the price of a
product. Assignments are solved only for the experts that go together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .groups import Permutation
from .symmetry import Elements, Family


@dataclass(frozen=True)
class Experts:
    """A space of experts, that of their `neurons`, and those of the scales inside of these."""

    space: str
    neurons: str
    scales: tuple[str, ...]

    @classmethod
    def of(cls, table: Family, space: str, neurons: str) -> Experts:
        """The experts of a table by the names of their spaces."""
        return cls(space, neurons, table.inner(neurons))

    def solve(
        self, table: Family, a: Mapping[str, Tensor], b: Mapping[str, Tensor], routed: Tensor | None
    ) -> tuple[Elements, float]:
        """The elements of these spaces that bring B to A, and what they attain.

        `a` and `b` are the pieces that the neurons act on, weighted, B moved by all other spaces already. `routed` is
        how alike the router's rows are, (experts of B, experts of A). The neurons' part is an optimum for the experts
        that were brought together; these are chosen by an upper bound of it.
        """
        group, inside = table.spaces[self.space].group, table.spaces[self.neurons].group
        pairs = _Pairs(table, self, a, b)
        values = torch.zeros(group.size, group.size) if routed is None else routed.float()
        bounds = [[float(inside.bound(pairs(i, j)[0])) for j in range(group.size)] for i in range(group.size)]
        elements: Elements = {self.space: group.solve(values + torch.tensor(bounds))}
        places, orders, turned = torch.arange(inside.size), [], []
        attained = float(group.act(values, 0, elements[self.space]).diagonal().sum())
        for j, i in enumerate(elements[self.space].tolist()):
            similar, signed = pairs(i, j)
            order = Permutation(inside.size).solve(similar)
            attained += float(similar[order, places].sum())
            orders.append(order)
            turned.append(signed[order, places])
        elements[self.neurons] = torch.stack(orders)
        for scales in self.scales:
            crosses = torch.cat(turned)[:, None, None].double()
            elements[scales] = table.spaces[scales].group.compact().solve(crosses)
        return elements, attained


class _Pairs:
    """How alike the neurons of two experts are."""

    def __init__(self, table: Family, experts: Experts, a: Mapping[str, Tensor], b: Mapping[str, Tensor]):
        count = table.spaces[experts.space].group.size
        self._parts: list[tuple[bool, Tensor, Tensor]] = []  # turned by a sign, of B, of A: (experts, neurons, rest)
        for name, position in table.occurrences(experts.neurons):
            if name in a:
                turned = any(space in table.pieces[name].axes[position].spaces for space in experts.scales)
                mine, other = (
                    torch.unflatten(pieces[name].movedim(position, 0), 0, (count, -1)).flatten(2) for pieces in (b, a)
                )
                self._parts.append((turned, mine, other))

    def __call__(self, i: int, j: int) -> tuple[Tensor, Tensor]:
        """Of expert i of B and j of A: likeness (n, n) with the best signs, rows B, and the part that signs turn."""
        plain, signed = (
            sum((mine[i] @ other[j].mT for turned, mine, other in self._parts if turned is kind), torch.zeros(()))
            for kind in (False, True)
        )
        return plain + signed.abs(), signed
