"""What can be done with models that no process has whole: they are shared by several, or they stay on disk."""

from __future__ import annotations

from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import Inputs
from .plans import MergePlan
from .recipes.recipe import Recipe

ALIGNMENTS = ("auto", "none", "permutation", "orthogonal", "learned")


def require_shareable(plan: MergePlan, joined: Recipe | None, inputs: Inputs) -> None:
    """Raise BadInput for a merge that needs a whole model in every process."""
    asked = {
        "an operator": joined is not None,
        f"--align {plan.alignment}": plan.alignment not in ALIGNMENTS,
        "--budget": plan.budget != 1,
        "--refit": plan.refit,
        "--restore-spectrum": plan.spectrum.restore,
        "--task": bool(plan.tasks),
        **_given_to_each_other(inputs),
    }
    for what, wanted in asked.items():
        if wanted:
            raise BadInput(
                f"{what} needs every model whole in each process, and accelerate was launched to share them (FSDP): "
                "launch it without, or join two models of one kind by a path, with --align "
                f"{', '.join(ALIGNMENTS[:-1])} or {ALIGNMENTS[-1]}"
            )


def require_alignable_on_disk(plan: MergePlan, inputs: Inputs) -> None:
    """Raise BadInput for models that stay on disk (`max_memory`), and that an alignment needs whole."""
    if plan.max_memory is None or plan.alignment == "none":
        return
    for what, wanted in _given_to_each_other(inputs).items():
        if wanted:
            raise BadInput(
                f"--align {plan.alignment} of {what} needs the models in memory: leave out that or --max-memory"
            )


def _given_to_each_other(inputs: Inputs) -> dict[str, bool]:
    """What one model has of another after they are aligned."""
    return {
        "models with the head of one (--head)": inputs.head is not None,
        "models of several vocabularies": inputs.growth is not None or inputs.borrowing is not None,
        "models of several context lengths": inputs.contexts is not None,
    }
