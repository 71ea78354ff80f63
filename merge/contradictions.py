"""What contradicts itself in what is asked of a merge: each a sentence, before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from ..align.methods import LOOKING
from ..checkpoint.errors import BadInput
from ..eval.tasks.specs import required, task_specs
from .plans import CurvePlan, Dtype, MergePlan, refuse
from .recipes.recipe import Recipe


def require_sense(plan: MergePlan, recipe: Recipe | None) -> None:
    """Raise BadInput for what contradicts itself, for two models on a path or those of a `recipe`."""
    if plan.dtype is not None and plan.dtype not in get_args(Dtype):
        raise BadInput(f"dtype is one of {', '.join(get_args(Dtype))}, by name; got {plan.dtype!r}")
    refuse(_against_path(plan) if recipe is None else _against_operator(plan, recipe))
    refuse(_against_adapter(plan, recipe) if plan.as_lora is not None else {})
    refuse(_against_vocabulary(plan, recipe) if plan.vocabulary is not None else {})
    refuse(_against_head(plan) if plan.head is not None else {})
    refuse(_against_tasks(plan))
    refuse(_against_refit(plan))
    if not plan.data and not plan.writes_text:
        refuse(_without_text(plan, recipe))


def _against_refit(plan: MergePlan) -> dict[str, bool]:
    others = {"--restore-spectrum": plan.spectrum.restore, "--as-lora": plan.as_lora is not None}
    return {
        "--refit is for averages, and points of a curve are none: leave --refit or --path out": (
            plan.refit and plan.path != "linear"
        ),
        "--refit looks at what the models do with text: add --data": plan.refit and not plan.data,
        **{
            f"--refit and {other} change the same weights: leave one out": plan.refit and it
            for other, it in others.items()
        },
    }


def _against_path(plan: MergePlan) -> dict[str, bool]:
    of_operator = plan.chooses_weights or plan.max_memory is not None
    return {
        "a soup, a search for weights and --max-memory are for a --method: name one, or leave them out": of_operator,
        f"t is a point of the path, between 0 and 1; got {plan.t}": plan.t is not None and not 0 <= plan.t <= 1,
        f"--interior is a share of the path below 0.5; got {plan.interior}": not 0 <= plan.interior < 0.5,
        f"--budget is how many times the neurons a merge may have, from 1 to 2; got {plan.budget:g}": (
            not 1 <= plan.budget <= 2
        ),
        **{
            f"--budget makes the MLPs wider, and {what}": plan.budget != 1 and given
            for what, given in {
                "--path is for models of the same size: leave one out": plan.path != "linear",
                "--restore-spectrum puts back that of narrow ones: leave one out": plan.spectrum.restore,
                "an adapter cannot: leave --as-lora out": plan.as_lora is not None,
                "a spectrum is that of matrices of one size: leave --spectrum and --require-spectrum out": (
                    plan.wants_spectrum
                ),
            }.items()
        },
    }


def _against_operator(plan: MergePlan, recipe: Recipe) -> dict[str, bool]:
    operator, chosen, limited = recipe.operator, plan.chooses_weights, plan.max_memory is not None
    learned = plan.search is not None and plan.search.method == "gradient"
    star = isinstance(plan.path, CurvePlan)
    of_path = isinstance(plan.path, Path) or plan.t is not None or plan.spectrum.restore
    trained = (bool(plan.fit_on) and plan.alignment != "learned" and not star) or any(plan.optimizers)
    choice = plan.choice_of_weights
    contradiction = f"the weights that are given and those of {choice} contradict each other: leave one out"
    several = "soup and --search both choose weights: leave one out"
    alone = f"{operator.name} of one model has no weights to choose: give two models or more"
    in_memory = {
        f"--align {plan.alignment}": plan.alignment not in ("none", "permutation", "orthogonal"),
        choice: chosen,
        f"--method {operator.name}": operator.knows is not None,
        "the spectrum": plan.wants_spectrum,
    }
    composed = {
        f"--align {plan.alignment}": plan.alignment != "none",
        choice: chosen,
        "--max-memory": limited,
        "--as-lora": plan.as_lora is not None,
        "--task": bool(plan.tasks),
        f"merge_method {operator.name}": any(one.operator.knows is not None for one in recipe.recipes),
    }
    chosen_rows = recipe.vocabulary is not None and bool(recipe.vocabulary.tokens)
    return {
        **{
            f"{what} is for models as they are, and this recipe puts them together from layers or stages: merge "
            "those first, or leave it out": recipe.is_composed and given
            for what, given in composed.items()
        },
        "the spectrum is compared layer by layer, and layers move here: leave out --spectrum and --require-spectrum": (
            recipe.moves and plan.wants_spectrum
        ),
        f"--align {plan.alignment} moves rows of tokens, and the recipe takes single ones from models as they are: "
        "leave one out": chosen_rows and plan.alignment != "none",
        "--align learned moves the models that are merged, and a base is none of them: take --align combined": (
            plan.alignment == "learned" and operator.needs_base
        ),
        "--align learned is for two models or more": plan.alignment == "learned" and len(recipe.models) < 2,
        "--align learned of models that an operator merges is fitted to text: add --data": (
            plan.alignment == "learned" and not plan.data
        ),
        "a path, its point, its training and its ends are for two models: leave the operator out": of_path or trained,
        **_against_star(plan, recipe),
        "--budget is for two models and the line between them: leave it out, or leave --method out": plan.budget != 1,
        "--refit is for plain averages: take --method linear, or leave it out": (
            plan.refit and (operator.name != "linear" or recipe.is_composed or limited)
        ),
        "--refit is for averages with one weight for every model: leave out it, or the weights by layer": (
            plan.refit
            and operator.name == "linear"
            and not recipe.is_composed
            and (recipe.plain_weights() is None or (plan.search is not None and plan.search.granularity != "model"))
        ),
        several: plan.soup != "uniform" and plan.search is not None,
        f"{operator.name} has no weights to choose": chosen and not operator.is_weighed,
        f"{operator.name} has no slopes to follow: take --search coordinate or cma": learned
        and operator.slopes is None,
        "scores on tasks have no slopes to follow: take --search coordinate or cma, or leave out --objective task": (
            learned and plan.objective == "task"
        ),
        "weights are chosen by the mean over texts or by tasks: leave out --objective worst": (
            chosen and plan.objective == "worst"
        ),
        "--objective task chooses weights: add --search cma, or leave it out": (
            plan.objective == "task" and not chosen
        ),
        alone: chosen and not operator.needs_base and len(recipe.models) == 1,
        "weights are chosen for whole models: not with slices": chosen and len(recipe.segments) > 1,
        contradiction: chosen and not recipe.weighs_alike,
        **{
            f"{what} needs the models in memory: leave out that or --max-memory": limited and needed
            for what, needed in in_memory.items()
        },
    }


def _against_star(plan: MergePlan, recipe: Recipe) -> dict[str, bool]:
    """What a trained centre of more than two models cannot be, or not yet."""
    if not isinstance(plan.path, CurvePlan):
        return {}
    averages = recipe.operator.name == "linear" and not recipe.is_composed and recipe.plain_weights() is not None
    return {
        "--path of models that an operator merges trains one centre for plain averages of three models or more, with "
        "one weight for every model: take --method linear, or leave --path out": not averages,
        "--path of two models is a path between them: leave --method out": averages and len(recipe.models) < 3,
        "the arms from the models to their centre are straight: take --path polychain": plan.path.kind != "polychain",
        f"three models or more have one centre in common; got --bends {plan.path.bends}": plan.path.bends != 1,
        "a centre is trained on text: add --data": not plan.data,
        f"--path trains the centre, and {plan.choice_of_weights} chooses weights: leave one out": plan.chooses_weights,
        "--path needs the models in memory: leave out that or --max-memory": plan.max_memory is not None,
    }


def _against_vocabulary(plan: MergePlan, recipe: Recipe | None) -> dict[str, bool]:
    return {
        "the recipe's tokenizer_source and --vocabulary contradict each other: leave one out": (
            recipe is not None and recipe.vocabulary is not None
        ),
    }


def _against_head(plan: MergePlan) -> dict[str, bool]:
    is_letter = len(plan.head or "") == 1 and "A" <= (plan.head or "") <= "Z"
    return {
        f"--head is the letter of a model, A for the first, B for the second; got '{plan.head}'": not is_letter,
        "an alignment is learned with the heads of both: with --head, take --align combined": (
            plan.alignment == "learned"
        ),
        "--head and a path that was saved are not for the same merge: leave one out": isinstance(plan.path, Path),
    }


def _against_tasks(plan: MergePlan) -> dict[str, bool]:
    labels = [spec.label for spec in task_specs(plan.tasks)]
    required(plan.gates.require_task, labels)
    asks = bool(plan.tasks)
    return {
        "--objective task chooses by tasks: add --task": plan.objective == "task" and not asks,
        "--task-path is for --task: name a task of it, or leave it out": bool(plan.task_path) and not asks,
        "--task is measured beside the loss on text: add --data (stdlib:docs)": asks and not plan.data,
        "--task needs the models in memory: leave out that or --max-memory": asks and plan.max_memory is not None,
    }


def _is_rank(rank: object) -> bool:
    return rank == "exact" or (type(rank) is int and rank >= 1)


def _against_adapter(plan: MergePlan, recipe: Recipe | None) -> dict[str, bool]:
    return {
        "an adapter goes on its base as it is, which alignment moves: add --align none to --as-lora": (
            plan.alignment != "none"
        ),
        "--as-lora is for a merge on the straight line or by a method: extract the merge afterwards": (
            plan.path != "linear"
        ),
        "an adapter is saved in float32: leave out --dtype, or --as-lora": plan.dtype is not None,
        "--as-lora and --max-memory are not for the same merge: extract the merge afterwards": (
            plan.max_memory is not None
        ),
        "--restore-spectrum is judged on the whole merge, not on its adapter: leave it or --as-lora out": (
            plan.spectrum.restore
        ),
        f"as_lora is a rank, 1 or more, or exact; got {plan.as_lora!r}": not _is_rank(plan.as_lora),
        "an adapter is saved in float32: leave out the recipe's dtype, or --as-lora": (
            recipe is not None and recipe.dtype is not None
        ),
    }


def _without_text(plan: MergePlan, recipe: Recipe | None) -> dict[str, bool]:
    stored, aligned, knows = isinstance(plan.path, Path), plan.alignment, recipe is not None and recipe.operator.knows
    chooses_t, compares = recipe is None and plan.t is None, aligned == "auto" and not stored
    looks = aligned in LOOKING and not stored
    without = ", orthogonal or learned" if recipe is None else " or orthogonal"
    return {
        f"--align {aligned} looks at what the models do with text: add --data": looks,
        "--restore-spectrum is judged by the loss on text: add --data": plan.spectrum.restore,
        "without text no loss can be measured: add --data (stdlib:docs), give --t, or say --align learned": chooses_t,
        f"without text alignments cannot be compared: add --data, or say --align none{without}": compares,
        f"{recipe and recipe.operator.name} weighs parameters by what they do on text: add --data": bool(knows),
        f"the weights of {plan.choice_of_weights} are chosen by the loss on text: add --data": plan.chooses_weights,
        "--max-memory is for measuring and aligning: without --data and --align, models never are in memory whole": (
            plan.max_memory is not None and aligned == "none"
        ),
        "--max-barrier and --require-gain need a loss: add --data": plan.gates.need_loss,
    }
