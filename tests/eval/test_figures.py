from __future__ import annotations

from isthmus.eval.figures import loss_figure, plane_figure, png


def rows(*losses: float) -> list[dict]:
    last = len(losses) - 1
    return [{"t": i / last, "loss": loss, "stderr": 0.05} for i, loss in enumerate(losses)]


def report(method: str = "orthogonal", bends: int = 1) -> dict:
    return {
        "alignment": {"method": method},
        "path": {"kind": "polychain" if bends else "linear", "bends": bends},
        "naive_profile": rows(1.0, 3.0, 1.0),
        "line_profile": rows(1.0, 1.5, 1.0),
        "profile": rows(1.0, 1.1, 1.0),
        "merge_point": {"t": 0.5, "loss": 1.1, "stderr": 0.05},
        "baselines": {"ensemble": {"loss": 0.9}},
    }


PLANE = {
    "x": [0.0, 1.0],
    "y": [0.0, 1.0],
    "loss": [[1.0, 2.0], [None, 3.0]],
    "models": [{"name": "A", "x": 0.0, "y": 0.0}],
    "path": [[0.0, 0.0], [1.0, 0.5]],
}


def legend(record: dict) -> list[str]:
    return [text.get_text() for text in loss_figure(record).axes[0].get_legend().get_texts()]


def test_the_figure_names_what_it_draws() -> None:
    points = ["ensemble of A and B", "merge, t = 0.5"]
    assert legend(report()) == ["without alignment", "straight line, aligned", "polychain", *points]
    assert legend(report(bends=0)) == ["without alignment", "straight line, aligned", *points]
    assert legend(report(method="none", bends=0)) == ["straight line", *points]


def test_figures_become_pictures() -> None:
    assert png(loss_figure(report())).startswith(b"\x89PNG")
    assert png(plane_figure(PLANE)).startswith(b"\x89PNG")
    assert png(loss_figure(report())) == png(loss_figure(report()))


def test_a_plane_shows_its_models_and_the_path() -> None:
    axis = plane_figure(PLANE).axes[0]
    assert [text.get_text() for text in axis.texts] == ["A"]
    assert any(len(line.get_xdata()) == 2 for line in axis.lines)
