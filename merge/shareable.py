"""What processes can do that share every model: paths between two models, of weights that stay on disk."""

from __future__ import annotations

from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import Inputs
from .plans import MergePlan
from .recipes.recipe import Recipe

ALIGNMENTS = ("auto", "none", "permutation", "orthogonal")


def require_shareable(plan: MergePlan, joined: Recipe | None, inputs: Inputs) -> None:
    """Raise BadInput for a merge that needs a whole model in every process."""
    asked = {
        "an operator": joined is not None,
        f"--align {plan.alignment}": plan.alignment not in ALIGNMENTS,
        "--budget": plan.budget != 1,
        "--refit": plan.refit,
        "--restore-spectrum": plan.spectrum.restore,
        "--task": bool(plan.tasks),
        "--head": inputs.head is not None,
        "models of several vocabularies": inputs.growth is not None or inputs.borrowing is not None,
        "models of several context lengths": inputs.contexts is not None,
    }
    for what, wanted in asked.items():
        if wanted:
            raise BadInput(
                f"{what} needs every model whole in each process, and accelerate was launched to share them (FSDP): "
                "launch it without, or join two models of one kind by a path, with --align "
                f"{', '.join(ALIGNMENTS[:-1])} or {ALIGNMENTS[-1]}"
            )
