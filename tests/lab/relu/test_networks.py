"""Training, constraint sets, constructed and trained paths, and regions of two-layer networks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.lab.relu.construct import compress, connect, width_that_suffices
from isthmus.lab.relu.network import (
    GEOMETRY,
    OPTIMIZERS,
    Networks,
    drawn,
    in_the_plane,
    loss,
    outputs,
    project,
    size,
    train,
)
from isthmus.lab.relu.polychain import along, barrier, bend, permuted, straight
from isthmus.lab.relu.regions import frontier
from isthmus.lab.relu.study import measure_constructed

DATA = in_the_plane(6, 11)


def test_a_network_computes_what_it_says() -> None:
    networks = drawn(3, 5, 2, seed=1)
    slow = [
        [sum(float(a) * max(0.0, float(w @ x)) for w, a in zip(one.inner, one.outer, strict=True)) for x in DATA.inputs]
        for one in (networks[index] for index in range(3))
    ]
    assert torch.allclose(outputs(networks, DATA.inputs), torch.tensor(slow, dtype=torch.float64))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_decay_bounds_the_norm_of_its_optimizer_and_no_other(optimizer: str) -> None:
    """At a decay that leaves no room for zero loss, the bounded norm is at its bound of 1/λ, the other is off it."""
    networks = train(optimizer, DATA, width=24, decay=4.0, seeds=2, steps=600)
    own = GEOMETRY[optimizer]
    other = "spectral" if own == "entrywise" else "entrywise"
    assert (4.0 * size(networks, own)).tolist() == pytest.approx([1, 1], abs=0.02)
    assert ((4.0 * size(networks, other) - 1).abs() > 0.1).all()


def test_networks_are_trained_apart() -> None:
    both = train("adamw", DATA, width=8, decay=0.5, seeds=2, steps=50, seed=3)
    start = drawn(2, 8, 2, 3)
    alone = torch.optim.AdamW(
        parameters := [start.inner[1].clone().requires_grad_(), start.outer[1].clone().requires_grad_()],
        lr=0.02,
        betas=(0.95, 0.95),
        weight_decay=0.5,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(alone, 50)
    for _ in range(50):
        loss(Networks(*parameters), DATA).backward()
        alone.step()
        schedule.step()
        alone.zero_grad()
    assert torch.allclose(both.inner[1], parameters[0], atol=1e-10)


@pytest.mark.parametrize("geometry", ["entrywise", "spectral"])
def test_projection_is_the_nearest_point_of_the_set(geometry: str) -> None:
    networks = drawn(4, 7, 2, seed=2)
    inside = project(networks, geometry, 0.4)
    assert (size(inside, geometry) <= 0.4 + 1e-12).all()
    again = project(inside, geometry, 0.4)
    assert torch.allclose(again.inner, inside.inner)
    assert torch.allclose(again.outer, inside.outer)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):  # of a convex set, the nearest point makes no acute angle with any other
        noise = [
            torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (networks.inner, networks.outer)
        ]
        other = project(Networks(*noise), geometry, 0.4)
        angle = ((networks.inner - inside.inner) * (other.inner - inside.inner)).sum((-2, -1))
        angle += ((networks.outer - inside.outer) * (other.outer - inside.outer)).sum(-1)
        assert (angle <= 1e-9).all()


@pytest.mark.parametrize("geometry", ["entrywise", "spectral"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_any_two_wide_networks_are_connected_in_the_spectral_set_and_most_in_the_box(geometry: str, seed: int) -> None:
    width = width_that_suffices(6, 2) if geometry == "spectral" else 64
    a, b = (drawn(2, width, 2, seed)[index] for index in (0, 1))
    radius = max(float(size(a, geometry)), float(size(b, geometry)))
    path = measure_constructed(a, b, DATA, geometry, radius)
    assert path is not None
    assert path["over_ends"] < 1e-9
    assert path["violation"] < 1e-12
    assert path["gaps"] < 1e-12


def test_few_neurons_are_left_and_compute_the_same() -> None:
    network = drawn(1, 40, 2, seed=5)[0]
    for geometry, most in (("spectral", width_that_suffices(6, 2) // 2), ("entrywise", 40)):
        radius = float(size(network, geometry))
        compressed = compress(network, DATA, geometry, radius)
        assert compressed.used <= most
        end = compressed.pieces[-1](torch.ones(1, dtype=torch.float64))[0]
        assert torch.allclose(outputs(end, DATA.inputs), outputs(network, DATA.inputs), atol=1e-9)
        assert (end.outer != 0).sum() == compressed.used
        assert size(end, geometry) <= radius + 1e-12


def test_networks_without_room_beside_each_other_are_left_alone() -> None:
    a, b = (drawn(2, 10, 2, 1)[index] for index in (0, 1))
    assert connect(a, b, DATA, "spectral", 10.0) is None


def test_tiny_neurons_are_used_like_others() -> None:
    """A path is exact where weights span ten orders of magnitude."""
    a, b = (drawn(2, 64, 2, 7)[index] for index in (0, 1))
    shrink = torch.logspace(0, -10, 64, dtype=torch.float64)
    a = Networks(a.inner * shrink[:, None], a.outer)
    radius = max(float(size(one, "entrywise")) for one in (a, b))
    path = measure_constructed(a, b, DATA, "entrywise", radius)
    assert path is not None
    assert path["over_ends"] < 1e-9
    assert path["violation"] < 1e-12


def test_neurons_are_put_in_order_and_back() -> None:
    a = drawn(2, 9, 2, seed=3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = Networks(a.inner[:, order], a.outer[:, order])
    back = permuted(a, shuffled)
    assert torch.equal(back.inner, a.inner)
    assert torch.equal(back.outer, a.outer)


def test_bends_lower_the_barrier_inside_the_set() -> None:
    a = train("muon", DATA, width=16, decay=0.25, seeds=2, steps=300)
    chain = straight(a[:1], a[1:], 3)
    before = barrier(chain, DATA)
    bent = bend(chain, DATA, inside=("spectral", 4.0), steps=150)
    assert (barrier(bent, DATA) < 0.2 * before).all()
    assert torch.equal(bent.inner[:, 0], a.inner[:1])
    assert torch.equal(bent.outer[:, -1], a.outer[1:])
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    assert (size(along(bent, t), "spectral") <= max(4.0, float(size(a, "spectral").max())) + 1e-12).all()


def test_the_tighter_the_box_the_larger_the_spectral_norm_in_it() -> None:
    regions = frontier(DATA)
    radii = [radius for _, radius in regions.curve]
    assert radii == sorted(radii, reverse=True)
    assert radii[0] > 1.15 * radii[-1], "the tightest box and the tightest ball have no zero-loss network in common"
    assert radii[-1] == pytest.approx(regions.least_spectral)


def test_training_agrees_with_the_frontier() -> None:
    """Muon fits the data where the spectral set has a zero-loss network, and cannot where it has none."""
    least = frontier(DATA, (1,)).least_spectral ** -0.5  # the highest decay with a zero-loss network
    for decay, fits in ((0.5 * least, True), (1.3 * least, False)):
        networks = train("muon", DATA, width=32, decay=decay, seeds=1, steps=1200)
        assert (loss(networks, DATA).item() < 2e-4) == fits
