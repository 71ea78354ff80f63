"""Opening the checkpoints of a merge: checked first, in one form afterwards, with one vocabulary and one tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .base_of_classifiers import as_base, is_base_of_classifiers
from .chat_templates import most_common_template, with_template
from .check import check, open_sources, two_vocabularies
from .checks.finding import Finding
from .config import DEFAULT_CONTEXT, context_length, schema_of, vocabulary_rows
from .errors import IncompatibleModels
from .labels import one_head
from .loading import Checkpoint, load
from .model import Families
from .one_vocabulary import Choice, OneVocabulary, TransplantedVocabulary, UnifiedSource, facts_of, unify
from .optimizer_evidence import Evidence
from .positions import OneContext, one_context
from .rows import ComputedState
from .small_files import CONFIGURATION
from .small_files import tokenizer_owner as owner_of
from .source import Source
from .token_ids import with_token_ids, within
from .token_rows import VocabularyPlan, is_one_vocabulary
from .vocabulary import Growth

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inputs:
    """Checkpoints of one form: the `members` have the rows of the vocabulary that all share, `whole` all of their own.

    `growth` says how the vocabulary of one of two models grew, None where both have the same. `tokenizer_owner` is the
    model whose tokenizer the merge has; blocks of text have at most `longest` tokens. `provenance` is what the files of
    every model say of its optimizer, `licences` what its card names, `findings` what `check` says of all. `head` is the
    place of the classifier whose head all have, where one was taken, `contexts` what was done to models of different
    context lengths.
    """

    members: tuple[Checkpoint, ...]
    whole: tuple[Checkpoint, ...]
    growth: Growth | None
    tokenizer_owner: Checkpoint
    provenance: tuple[Sequence[Evidence], ...]
    licences: tuple[str | None, ...]
    findings: tuple[Finding, ...] = ()
    longest: int | None = None
    head: int | None = None
    contexts: OneContext | None = None

    @property
    def first(self) -> Checkpoint:
        """The first model, whose form all others have."""
        return self.members[0]

    @property
    def unified(self) -> OneVocabulary | None:
        """The one vocabulary that the models were brought to; None where they have their own."""
        source = self.first.source
        return source.vocabulary if isinstance(source, UnifiedSource) else None

    @property
    def borrowing(self) -> OneVocabulary | None:
        """The one vocabulary, where models have rows of it that are other models'."""
        vocabulary = self.unified
        return None if isinstance(vocabulary, TransplantedVocabulary) else vocabulary

    @property
    def context(self) -> int:
        """The tokens of a block of text: as many as the models are made for, where they say, but at most `longest`."""
        whole = min(context_length(member.config) or DEFAULT_CONTEXT for member in self.members)
        return whole if self.longest is None else min(self.longest, whole)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the shared rows. Raises BadInput when no model has one."""
        if self.growth is not None:
            return self.whole[1 - self.growth.owner].tokenizer()
        return self.tokenizer_owner.tokenizer()

    def small_files(self) -> dict[str, Path]:
        """The small files of a merge: the configuration of the first model, and all that goes with the tokenizer."""
        return self.tokenizer_owner.files | {CONFIGURATION: self.first.files[CONFIGURATION]}

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The content of config.json of a merge with all rows; its token ids are those of the tokenizer's model."""
        whole = facts if self.growth is None else {**facts, "vocab_size": self.growth.total}
        return with_token_ids(whole, self.tokenizer_owner.facts)

    def in_memory(self) -> Inputs:
        """The same with all weights read."""
        whole = tuple(replace(model, state=dict(model.state)) for model in self.whole)
        if self.growth is None:
            return replace(self, members=whole, whole=whole)
        members = tuple(replace(model, state=dict(model.state)) for model in self.members)
        return replace(self, members=members, whole=whole)


def open_inputs(
    models: Sequence[str | Path | Checkpoint],
    *,
    families: Families | None = None,
    tokenizer_of: str | None = None,
    narrow: bool = False,
    opened: bool = True,
    longest: int | None = None,
    vocabulary: Choice | VocabularyPlan | None = None,
    template: str | None = None,
    base: bool = False,
    head: int | None = None,
    moves: bool = False,
) -> Inputs:
    """The checkpoints, checked against the first before a weight is downloaded or read; untied alike when one is.

    The tokenizer is that of the model `tokenizer_of`, else of the first that has one. `narrow` cuts models to the rows
    of the vocabulary that all share where they differ in it, which is an error otherwise. `opened` is as for
    `isthmus.checkpoint.check.check`. Blocks of text have at most `longest` tokens. `vocabulary` brings models whose
    vocabularies differ by added tokens to one (`isthmus.checkpoint.one_vocabulary`); `template` is the chat template of
    the merge, ``auto`` the one that most models have, None that of the tokenizer; with `base`, the first is what the
    others were trained from. `head` is the place of the classifier whose head all take; without it, the heads of
    classifiers are brought to the order of the labels of the first. Where layers move, `moves`, models may have
    different numbers of them.

    Raises IncompatibleModels when they cannot be merged; what `check` and `load` raise.
    """
    references = [model.reference if isinstance(model, Checkpoint) else model for model in models]
    unified: Sequence[Source] | None = None
    notes: list[Finding] = []
    if vocabulary is not None:
        opened_sources = open_sources(references)
        if _brings_together(opened_sources, vocabulary, families):
            unified, notes = unify(opened_sources, vocabulary, base=base, families=families)
        else:
            vocabulary = None
    result = check(*references, families=families, opened=opened, sources=unified, head=head, base=base, moves=moves)
    result = replace(result, findings=(*result.findings, *notes))
    grown = {place: growth for place, growth in enumerate(result.growth, start=1) if growth is not None}
    apart = [two_vocabularies(result.models[0], result.models[place], growth) for place, growth in grown.items()]
    if narrow:
        result = replace(result, findings=tuple(finding for finding in result.findings if finding not in apart))
    result.require()
    if apart and not narrow:
        raise IncompatibleModels(str(apart[0]))
    members = [
        model if isinstance(model, Checkpoint) and not vocabulary else load(reference, families=families, source=source)
        for model, reference, source in zip(models, references, result.sources, strict=True)
    ]
    if base and is_base_of_classifiers([member.facts for member in members]):
        rest = one_head(members[1:], None if head is None else head - 1, families)
        members = [as_base(members[0], rest, families), *rest]
    if len({bool(member.schema.tied) for member in members}) > 1:
        members = [member.untied() for member in members]
    members, contexts = one_context(one_head(members, head, families), families)
    if contexts is not None:
        longest = min(filter(None, (longest, contexts.shared)))
    whole, growth = tuple(members), result.growth[0] if len(models) == 2 else None
    named = dict(zip(map(str, models), members, strict=True)).get(str(tokenizer_of))
    owner = named or (whole[growth.owner] if growth is not None else tokenizer_owner(members))
    if template is not None and owner.has_tokenizer:
        text = most_common_template(members) if template == "auto" else template
        taken = owner if text is None else with_template(owner, text)
        members = [taken if member is owner else member for member in members]
        owner, whole = taken, tuple(members)
    if grown:
        rows = min(one.shared for one in grown.values())
        members = [narrowed(member, rows, families) for member in members]
    head_of = head if members[0].schema.classifies else None
    return Inputs(
        tuple(members),
        whole,
        growth,
        owner,
        result.provenance,
        result.licences,
        result.findings,
        longest,
        head_of,
        contexts,
    )


def _brings_together(sources: Sequence[Source], vocabulary: Choice | VocabularyPlan, families: Families | None) -> bool:
    """Whether a vocabulary changes any model: that of a recipe need not."""
    if not isinstance(vocabulary, VocabularyPlan) or vocabulary.tokens or vocabulary.multiple is not None:
        return True
    return not is_one_vocabulary(sources, [vocabulary_rows(facts_of(one, families), one.name) for one in sources])


def tokenizer_owner(members: Sequence[Checkpoint]) -> Checkpoint:
    """The one of some models that gives a merge its tokenizer."""
    return members[owner_of([member.files for member in members])]


def narrowed(checkpoint: Checkpoint, rows: int, families: Families | None) -> Checkpoint:
    """The same model with the first `rows` rows of its vocabulary."""
    facts = {**within(checkpoint.facts, rows), "vocab_size": rows}
    schema = schema_of(facts, checkpoint.name, families)

    def tensor(name: str) -> Tensor:
        whole, shape = checkpoint.state[name], schema.shapes[name]
        return whole if tuple(whole.shape) == shape else whole[: shape[0]].clone()

    return replace(checkpoint, facts=facts, schema=schema, state=ComputedState(checkpoint.state, tensor))
