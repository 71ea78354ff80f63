"""What a merge says of its weights while it is written, against numpy on whole tensors, and against explain."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EMBEDDED
from merging import combine, merge
from torch import Tensor

from isthmus.checkpoint.rows import ComputedState, in_blocks
from isthmus.eval.explanation import relations
from isthmus.eval.report import render_report
from isthmus.merge.explain import explain
from isthmus.merge.observed import FEWEST, MOST, Observed, entry_step
from isthmus.merge.operators.combined import Combined
from isthmus.merge.operators.registry import OPERATORS
from isthmus.merge.recipes.recipe import recipe

LARGE = (2304, 768)  # several blocks, of which every fifth entry is compared


@pytest.mark.parametrize(
    "shape", [(), (5,), (64, 64), (1024, 1024), LARGE, (3000, 512, 2), (50_257, 768), (128_256, 4096), (2**22,)]
)
def test_steps_see_every_row_and_column(shape: tuple[int, ...]) -> None:
    step, items, width = entry_step(shape), math.prod(shape), math.prod(shape[1:])
    assert items / step >= min(items, FEWEST)
    assert items / step <= 1.5 * max(MOST, 2 * FEWEST)
    assert step == 1 or math.gcd(step, width) == 1


def states(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"large": torch.randn(LARGE, generator=generator), "small": torch.randn(7, 3, generator=generator)}
        for _ in range(count)
    ]


def observer(models: Sequence[dict[str, Tensor]], dtype: torch.dtype = torch.float32, **options: Any) -> Observed:
    return Observed(models, {name: tuple(value.shape) for name, value in models[0].items()}, dtype, **options)


def figures(observed: Observed, name: str) -> dict[str, Any]:
    return relations(observed._sums[name])


def written(state: ComputedState) -> dict[str, Tensor]:
    """As saving reads a state: block by block."""
    return {name: torch.cat(list(in_blocks(state, name))) for name in state}


def test_entries_are_those_of_whole_tensors() -> None:
    base, a, b = models = states(3)
    seen = observer(models, torch.float16, based=True)
    ties = OPERATORS["ties"]
    settings = {name: recipe("ties", ["a", "b"], base="c", densities=[(0.3,)]).values([name])[name] for name in base}
    merged = written(seen.merged(Combined(ties, seen.models, settings)))
    plain = Combined(ties, models, settings)
    assert all(torch.equal(merged[name], plain[name]) for name in base)
    for name in base:
        step = entry_step(base[name].shape)
        assert (step > 1) == (name == "large")
        m, p, q, r = (
            one[name].to(dtype).double().numpy().ravel()[::step]
            for one, dtype in ((merged, torch.float16), (a, torch.float32), (b, torch.float32), (base, torch.float32))
        )
        facts = figures(seen, name)
        expected = [np.linalg.norm(m - one) / np.linalg.norm(m) for one in (p, q)]
        assert facts["distances"] == pytest.approx(expected, rel=1e-6)
        solved = np.linalg.lstsq(np.stack([p - r, q - r], 1), m - r, rcond=None)[0]
        assert facts["weights"] == pytest.approx(solved.tolist(), rel=1e-5)
        assert facts["conflict"] == pytest.approx(float(np.mean((p - r) * (q - r) < 0)), rel=1e-4)
        assert facts["entries"] == base[name].numel()
    whole = np.linalg.norm((merged["large"] - a["large"]).numpy()) / np.linalg.norm(merged["large"].numpy())
    assert figures(seen, "large")["distances"][0] == pytest.approx(whole, rel=0.01)
    assert seen.is_complete
    assert not seen._entries


def test_models_that_are_not_read_and_blocks_that_are_joined() -> None:
    """A model of weight 0 is read by nobody else, and some methods give a tensor in one block."""
    a, b = models = states(2)
    seen = observer(models, based=False)

    def joined(name: str) -> Iterator[Tensor]:
        yield torch.cat(list(in_blocks(seen.models[1], name)))

    merged = written(seen.merged(ComputedState(b, lambda name: b[name], joined)))
    assert torch.equal(merged["large"], b["large"])
    assert figures(seen, "large")["distances"][1] == 0
    assert figures(seen, "large")["weights"] == pytest.approx([0, 1], abs=1e-12)
    apart = np.linalg.norm((a["small"] - b["small"]).numpy()) / np.linalg.norm(b["small"].numpy())
    assert figures(seen, "small")["distances"] == pytest.approx([float(apart), 0], rel=1e-6)


def test_a_tensor_that_is_looked_up_is_compared_once() -> None:
    a, b = models = states(2)
    seen = observer(models, based=False)
    merged = seen.merged(ComputedState(a, lambda name: torch.lerp(a[name], b[name], 0.25)))
    for _ in range(2):
        for name in merged:
            assert torch.equal(merged[name], torch.lerp(a[name], b[name], 0.25))
    assert figures(seen, "large")["weights"] == pytest.approx([0.75, 0.25], abs=1e-5)
    assert figures(seen, "large")["entries"] == a["large"].numel()


@pytest.fixture
def trio(tmp_path: Path) -> tuple[str, str, str]:
    for name in ("docs", "code", "adamw-1"):
        shutil.copytree(EMBEDDED / name, tmp_path / name)
    return str(tmp_path / "docs"), str(tmp_path / "code"), str(tmp_path / "adamw-1")


MODULES = {"q+k+v": "c_attn", "o": "attn.c_proj", "fc": "c_fc", "proj": "mlp.c_proj"}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def alike(report: dict[str, Any], explanation: dict[str, Any]) -> None:
    """The same figures, to the digits of a report."""
    for name in ("total", "layers", "kinds", "cells"):
        ours, theirs = report["explanation"][name], explanation[name]
        rows = zip(*([one] if isinstance(one, dict) else one for one in (ours, theirs)), strict=True)
        for own, other in rows:
            assert own.keys() == other.keys()
            for key in own:
                if key == "kind":  # by the names of modules, where nothing of transformers is asked
                    assert own[key] in (other[key], MODULES.get(other[key]))
                    continue
                for one, two in zip(listed(own[key]), listed(other[key]), strict=True):
                    assert one == (pytest.approx(two, rel=1e-4, abs=1e-6) if isinstance(two, float) else two), key
    said = [" ".join(MODULES.get(word, word) for word in line.split()) for line in explanation["sentences"]]
    assert report["explanation"]["sentences"] in (explanation["sentences"], said)


def test_a_merge_from_disk_to_disk_says_what_explain_says(trio: tuple[str, str, str], tmp_path: Path) -> None:
    a, b, base = trio
    method = recipe("ties", [a, b], base=base, densities=[(0.4,)])
    report = combine(method, align="none").save(tmp_path / "merged")
    assert report["explanation"]["compared"] == 1
    alike(report, explain(tmp_path / "merged").report)
    assert report == json.loads((tmp_path / "merged" / "isthmus.json").read_text())
    assert render_report(report) == (tmp_path / "merged" / "report.html").read_text(encoding="utf-8")
    page = render_report({**report, "explanation": None})
    assert "What the merge did" not in page


def test_an_aligned_merge_says_what_explain_says(trio: tuple[str, str, str], tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED / "muon-1", tmp_path / "muon-1")
    merged = merge(trio[2], tmp_path / "muon-1", align="permutation", t=0.4, measure_spectrum=False)
    report = merged.save(tmp_path / "merged")
    assert merged.report["explanation"] == report["explanation"]
    alike(report, explain(tmp_path / "merged").report)
    page = (tmp_path / "merged" / "report.html").read_text(encoding="utf-8")
    assert "What the merge did" in page
    assert "The parents are where the alignment (permutation) put them." in page


def test_one_model_has_nothing_to_be_compared_with(trio: tuple[str, str, str], tmp_path: Path) -> None:
    one = recipe("task_arithmetic", [trio[0]], base=trio[2], weights=[(0.5,)])
    assert combine(one, align="none").save(tmp_path / "merged")["explanation"] is None
