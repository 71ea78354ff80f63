"""Why a merge may write gibberish: the likeliest cause among the findings, its evidence, and what helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .finding import Cause, Finding

# The likeliest first: what each is called, and what helps.
CAUSES: dict[Cause, tuple[str, str]] = {
    "architecture": ("that they compute in different ways", "merge models whose config.json agree in it"),
    "positions": (
        "that they read positions differently",
        "no average of the weights mends it: merge models of one setting, or correct the config.json that is wrong",
    ),
    "tokens": (
        "that their tokens do not mean the same",
        "--vocabulary union brings added tokens together by name; models of other tokenizers do not merge",
    ),
    "base": (
        "that they were not trained from one base",
        "merge models of one base",
    ),
    "adapters": (
        "an adapter that is as large as its base",
        "take an earlier checkpoint of it, or give it a smaller weight",
    ),
    "layers": (
        "that some layers of one come from another model",
        "merge the layers that are relatives alone: a recipe gives the others the weight 0 (slices, or a gradient)",
    ),
    "end token": (
        "that they end a text with different tokens, so that the merge does not know when to stop",
        "name the model whose end token it should be first, or state it where you generate (eos_token_id)",
    ),
    "chat template": (
        "that they were trained on different chat templates",
        "name the model whose template you will use first, and prompt the merge by that template",
    ),
    "rounding": (
        "that their numbers were rounded, so that a small difference between them is mostly rounding",
        "merge the full-precision weights, and save with --dtype float32",
    ),
    "ties": (
        "that one ties its output to its embedding and the other does not",
        "keep the merge untied, as isthmus saves it: tied again, it would lose one of the two",
    ),
}


@dataclass(frozen=True)
class Diagnosis:
    """The likeliest cause of a merge that writes gibberish, the `evidence` for it, and what helps (`advice`).

    `others` are further causes that findings point to, the likeliest first; `blocks` says that these are not merged for
    it.
    """

    cause: Cause
    evidence: str
    advice: str
    others: tuple[Cause, ...] = ()
    blocks: bool = False

    def __str__(self) -> str:
        begins = "if a merge of these writes gibberish, the likeliest cause is"
        if self.blocks:
            begins = "a merge of these, by whatever tool, would write gibberish, and the likeliest cause is"
        text = f"{begins} {CAUSES[self.cause][0]}: {self.evidence}. "
        text += f"What helps: {self.advice}."
        if self.others:
            text += " Then look at " + ", ".join(_SHORT[cause] for cause in self.others) + ", named above."
        return text


_SHORT: dict[Cause, str] = {
    "architecture": "what they compute",
    "positions": "how they read positions",
    "tokens": "their tokens",
    "base": "their base",
    "adapters": "how large the adapters are",
    "layers": "the layers that are strangers",
    "end token": "their end tokens",
    "chat template": "their chat templates",
    "rounding": "the dtypes that their weights have been through",
    "ties": "their ties",
}


def diagnose(findings: Sequence[Finding]) -> Diagnosis | None:
    """The likeliest cause among the findings of a check; None where nothing points to one.

    Nor where something else blocks: there is no merge of these that could write gibberish.
    """
    if any(finding.kind == "blocks" and finding.cause is None for finding in findings):
        return None
    by_cause: dict[Cause, list[Finding]] = {}
    for finding in findings:
        if finding.cause is not None:
            by_cause.setdefault(finding.cause, []).append(finding)
    causes = [cause for cause in CAUSES if cause in by_cause]
    if not causes:
        return None
    first, *others = causes
    advice, blocks = CAUSES[first][1], any(finding.kind == "blocks" for finding in by_cause[first])
    if "--align auto" in by_cause[first][0].advice:
        advice = f"--align auto moves one next to the other, or {advice}"
    return Diagnosis(first, "; ".join(one.what for one in by_cause[first][:2]), advice, tuple(others), blocks)
