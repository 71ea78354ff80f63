from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from isthmus.eval.spectrum import (
    Thresholds,
    along_path,
    among,
    log_histogram,
    mean_distance,
    singular_values,
    spectral_distance,
    stable_rank,
)


def spectrum(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(20, 20), (20, 60), (60, 20)])
def test_singular_values_are_those_of_an_svd(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(singular_values(matrix), torch.linalg.svdvals(matrix.double()), rtol=1e-6)


def test_values_that_are_zero_to_rounding_are_left_out() -> None:
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    matrix -= matrix.mean(0)
    values = singular_values(matrix)
    assert values.numel() == 19
    assert torch.allclose(values, torch.linalg.svdvals(matrix.double())[:19], rtol=1e-5)


def test_stable_rank() -> None:
    assert stable_rank(spectrum(2.0, 2.0, 2.0)) == pytest.approx(3.0)
    assert stable_rank(spectrum(2.0, 1.0)) == pytest.approx(1.25)


positive = st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4).map(lambda x: spectrum(*sorted(x, reverse=True)))


@settings(max_examples=50, deadline=None)
@given(positive, positive)
def test_spectral_distance_is_scipys_wasserstein_distance_of_logs(a: torch.Tensor, b: torch.Tensor) -> None:
    assert spectral_distance(a, b) == pytest.approx(wasserstein_distance(a.log().numpy(), b.log().numpy()), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(positive, positive, st.floats(0.0, 1.0))
def test_between_two_spectra_there_is_no_excess(a: torch.Tensor, b: torch.Tensor, t: float) -> None:
    between = (a.log() * (1 - t) + b.log() * t).exp()
    comparison = among(({"m": a}, {"m": b}), {"m": between})
    assert comparison.excess == pytest.approx(0.0, abs=1e-9)
    if comparison.distance > 1e-3:
        assert comparison.position == pytest.approx(t, abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(positive, positive, positive)
def test_excess_is_never_negative(a: torch.Tensor, m: torch.Tensor, b: torch.Tensor) -> None:
    assert among(({"m": a}, {"m": b}), {"m": m}).excess >= 0.0


A, FAR = spectrum(4.0, 2.0, 1.0), spectrum(12.0, 6.0, 3.0)


@pytest.mark.parametrize(
    ("m", "b", "verdict"),
    [
        (A * 1.05, A * 1.1, "preserved"),
        (A * 1.7, FAR, "transition"),
        (A * 0.7, A * 1.1, "contracted"),
        (A * 1.5, A * 1.1, "inflated"),
        (A * 0.5, FAR, "contracted"),
        (A * 0.93, A * 1.1, "preserved"),  # an excess of 0.07: allowed between spectra of one kind only
        (A * 0.93, FAR, "contracted"),
    ],
)
def test_verdicts(m: torch.Tensor, b: torch.Tensor, verdict: str) -> None:
    assert among(({"m": A}, {"m": b}), {"m": m}).verdict == verdict


def test_thresholds_are_options() -> None:
    assert among(({"m": A}, {"m": A}), {"m": A * 0.7}, Thresholds(max_excess=0.5)).verdict == "preserved"
    assert among(({"m": A}, {"m": A * 1.1}), {"m": A * 1.05}, Thresholds(same_kind=0.01)).verdict == "transition"


def test_averaging_two_unrelated_matrices_contracts() -> None:
    """The reason for the verdict: independent directions cancel, by √2 where the spectra are alike."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200, 200, generator=generator) for _ in range(2))
    a, m, b = ({"m": singular_values(x)} for x in (a, (a + b) / 2, b))
    comparison = among((a, b), m)
    assert comparison.verdict == "contracted"
    assert comparison.log_ratio == pytest.approx(-math.log(2) / 2, abs=0.03)


def test_mean_over_matrices() -> None:
    assert mean_distance({"x": A, "y": A}, {"x": A, "y": A * math.e}) == pytest.approx(0.5)


def test_histogram_counts_every_value_once() -> None:
    shares = log_histogram(A, torch.linspace(-1.0, 2.0, 10))
    assert sum(shares) == pytest.approx(1.0)


def shifted(base: float) -> dict[str, torch.Tensor]:
    return {"h.0.q": torch.exp(torch.tensor([1.0, 0.5, 0.0]).double() + base)}


def test_a_path_that_keeps_its_spectrum() -> None:
    path = along_path({0.0: shifted(0.0), 0.5: shifted(0.05), 1.0: shifted(0.1)})
    assert path.verdict == "preserved"
    assert path.broken_at == ()
    assert among((shifted(0.0), shifted(0.1)), shifted(0.05)).limit == 0.1
    assert among((shifted(0.0), shifted(1.0)), shifted(0.05)).limit == pytest.approx(0.04)
    assert [t for t, _, _ in path.points] == [0.0, 0.5, 1.0]


def test_a_smooth_transition_and_one_that_turns_back() -> None:
    smooth = along_path({0.0: shifted(0.0), 0.4: shifted(0.3), 0.6: shifted(0.7), 1.0: shifted(1.0)})
    assert smooth.verdict == "transition"
    assert [position for _, _, position in smooth.points] == pytest.approx([0, 0.3, 0.7, 1])
    back = along_path({0.0: shifted(0.0), 0.4: shifted(0.7), 0.6: shifted(0.3), 1.0: shifted(1.0)})
    assert (back.verdict, back.broken_at) == ("broken", (0.6,))


def test_a_path_that_leaves_the_endpoints_spectra() -> None:
    path = along_path({0.0: shifted(0.0), 0.5: shifted(-0.4), 1.0: shifted(0.1)})
    assert (path.verdict, path.broken_at) == ("broken", (0.5,))
    assert (
        along_path({0.0: shifted(0.0), 0.5: shifted(-0.4), 1.0: shifted(0.1)}, Thresholds(max_excess=0.5)).verdict
        == "preserved"
    )
