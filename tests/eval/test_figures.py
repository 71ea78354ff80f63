from __future__ import annotations

import re
from xml.etree import ElementTree

import torch

from isthmus.eval.barrier import Profile
from isthmus.eval.figures import loss_figure, png, spectra_figure, svg
from isthmus.eval.loss import Losses


def curve(*values: float) -> Profile:
    last = len(values) - 1
    return Profile(tuple((i / last, Losses({"x": torch.tensor([v, v + 0.1]).double()})) for i, v in enumerate(values)))


def drawn() -> tuple[str, str]:
    curves = {"naive": curve(1.0, 3.0, 1.0), "aligned": curve(1.0, 1.5, 1.0)}
    loss = loss_figure(curves, (0.5, 1.5, 0.05), {"ensemble of A and B": 0.9})
    spectra = {t: {"h.0.q": torch.tensor([4.0, 2.0, 1.0 + t])} for t in (0.0, 0.5, 1.0)}
    return svg(loss, "Loss along the path"), svg(spectra_figure(spectra, ["h.0.q"]), "Singular values")


def test_figures_say_what_they_show() -> None:
    loss, spectra = drawn()
    for expected in ("without alignment", "aligned", "merge, t = 0.5", "ensemble of A and B", "loss, nats per token"):
        assert f">{expected}<" in loss
    assert ">h.0.q<" in spectra
    assert 'role="img" aria-label="Loss along the path"' in loss


def test_two_figures_of_a_page_share_no_ids_and_refer_to_their_own() -> None:
    ids = [set(re.findall(r'id="([^"]+)"', text)) for text in drawn()]
    assert not ids[0] & ids[1]
    for text, own in zip(drawn(), ids, strict=True):
        used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text))
        assert used
        assert used <= own
        ElementTree.fromstring(text.replace("xlink:", ""))


def test_a_path_without_alignment_is_one_curve() -> None:
    same = curve(1.0, 1.5, 1.0)
    text = svg(loss_figure({"naive": same, "aligned": same}, (0.5, 1.5, 0.05), {}), "x")
    assert "the path (no alignment)" in text
    assert ">without alignment<" not in text


def test_the_same_figure_is_the_same_text_and_a_picture() -> None:
    assert drawn() == drawn()
    assert png(loss_figure({}, (0.5, 1.5, 0.05), {})).startswith(b"\x89PNG")
