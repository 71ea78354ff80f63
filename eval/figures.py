"""The figures of a report: the loss along the path, and spectra along the path; as inline SVG or as PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from isthmus.eval.spectrum import Spectrum, log_histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from isthmus.eval.barrier import Profile

BLUE, ORANGE, GREY, GREEN = "#2563a8", "#c2571a", "#808890", "#1a7f5a"


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_facecolor("none")
    figure.patch.set_alpha(0)
    return figure, axes


def svg(figure: Figure, title: str) -> str:
    """The figure as inline SVG: in the page's text colour, named for screen readers, the same every time."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "isthmus", "font.size": 11}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'^<svg[^>]*viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{title}">',
        text,
        count=1,
    )
    text = text.replace("#000000", "currentColor").replace("<text ", '<text fill="currentColor" ')
    # Every figure of a page needs ids of its own.
    prefix = re.sub(r"\W+", "-", title)[:24]
    return re.sub(r'(id="|xlink:href="#|url\(#)', rf"\1{prefix}-", text)


def png(figure: Figure) -> bytes:
    """The figure as a picture on white."""
    figure.patch.set(alpha=1.0, facecolor="white")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return out.getvalue()


def loss_figure(
    curves: Mapping[str, Profile], point: tuple[float, float, float], baselines: Mapping[str, float]
) -> Figure:
    """Loss along the path before and after alignment with standard-error bands, the merge point, and baselines."""
    figure, (axis,) = _figure(7.2, 4.0)
    for (label, colour, style), measured in _drawn(curves):
        ts = [t for t, _ in measured.points]
        means = [losses.mean for _, losses in measured.points]
        errors = [losses.stderr for _, losses in measured.points]
        axis.plot(ts, means, style, color=colour, label=label, marker="o", markersize=3.5)
        low, high = ([m + s * e for m, e in zip(means, errors, strict=True)] for s in (-1, 1))
        axis.fill_between(ts, low, high, color=colour, alpha=0.18, linewidth=0)
    t, loss, error = point
    axis.errorbar([t], [loss], yerr=[error], fmt="*", markersize=14, color=ORANGE, label=f"merge, t = {t:g}", zorder=5)
    for name, value in baselines.items():
        axis.axhline(value, color=GREY, linewidth=1, linestyle=":")
        axis.annotate(name, (0.0, value), ha="left", va="bottom", fontsize=9, color=GREY)
    axis.set_xlabel("t   (0 = A, 1 = B)")
    axis.set_ylabel("loss, nats per token")
    axis.legend(frameon=False)
    return figure


def _drawn(curves: Mapping[str, Profile]) -> list[tuple[tuple[str, str, str], Profile]]:
    """Every different profile with its label, colour and line style."""
    naive, line, path = (curves[name] for name in ("naive", "aligned", "curve"))
    if line is naive:
        found = [(("straight line (no alignment)", BLUE, "-"), line)]
    else:
        found = [(("without alignment", GREY, "--"), naive), (("straight line, aligned", BLUE, "-"), line)]
    return found if path is line else [*found, (("curve", GREEN, "-"), path)]


def spectra_figure(spectra: Mapping[float, Spectrum], names: Sequence[str]) -> Figure:
    """Histograms of log10 singular values of a few matrices, one curve per t."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("path", [BLUE, "#8f8fa0", ORANGE])
    figure, axes = _figure(3.1 * len(names), 3.2, len(names))
    ts = sorted(spectra)
    for axis, name in zip(axes, names, strict=True):
        logs = torch.cat([spectra[t][name].log10() for t in ts]).float()
        edges = torch.linspace(float(logs.quantile(0.005)), float(logs.max()) + 1e-6, 17)
        middles = ((edges[1:] + edges[:-1]) / 2).tolist()
        for t in ts:
            axis.plot(
                middles,
                log_histogram(spectra[t][name], edges),
                color=colours(t),
                label=f"t = {t:g}",
            )
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("log₁₀ σ")
    axes[0].set_ylabel("share")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ts), frameon=False)
    return figure
