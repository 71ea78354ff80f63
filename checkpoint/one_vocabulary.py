"""One vocabulary for models whose vocabularies differ by added tokens: one row for every token, whatever its id was.

The rows of the embedding and of the output matrix are brought into one order by the tokens' text. Where a model lacks a
token, it takes the row of the base, if that has it, else the mean of the rows of the models that have it: so a token of
one model keeps that model's row, and one of several is averaged over these.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from .adapters.adapted_weights import facts_with_adapter
from .checks.finding import Finding
from .checks.tokenizer_behaviour import behaviour_findings
from .checks.tokenizers import detail_findings
from .config import schema_of, vocabulary_rows
from .errors import IncompatibleModels
from .model import Families, Schema
from .overlaid_source import OverlaidSource
from .reference import Reference
from .rows import ComputedState, in_blocks
from .saving import write_json
from .small_files import GENERATION, TOKENIZER_SETTINGS, is_tokenizer_file
from .source import LooseFiles, Source
from .strict_json import parse_object
from .token_ids import with_token_ids
from .token_rows import VocabularyPlan
from .tokenizer import Tokenizer, build_tokenizer, files_to_build, read_tokenizer
from .transplant import pursuit_seconds, shared_tokens, transplanted
from .untrusted_text import plain
from .working_folders import WorkingFolder

Opened = TypeVar("Opened")
Choice = Literal["union", "base", "A", "transplant"]
SHOWN = 3  # tokens that a sentence names
WORTH_SAYING = 2  # minutes
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")


@dataclass(eq=False)
class OneVocabulary:
    """The `tokens` that all models get, by their rows, of which there are `rows`; those of every source by its `own`.

    `missing` are the tokens that not all models have. `base` says whether the first model is the others' base. `plan`
    says where some rows come from, `donors` which rows these are in their models.
    """

    sources: tuple[Source, ...]
    own: tuple[Mapping[str, int], ...]
    tokens: Mapping[str, int]
    rows: int
    missing: tuple[str, ...]
    owner: int
    base: bool
    files: LooseFiles
    _folder: WorkingFolder = field(repr=False)
    plan: VocabularyPlan = field(default_factory=VocabularyPlan)
    donors: Mapping[str, int | None] = field(default_factory=dict)
    _members: list[Any] = field(default_factory=list, repr=False)  # checkpoints
    _places: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _rows: dict[str, dict[int, Tensor]] = field(default_factory=dict, repr=False)

    def members(self, load: Callable[[Source], Opened]) -> list[Opened]:
        """The models as they are, opened once."""
        if not self._members:
            opened: list[Any] = [load(source) for source in self.sources]
            apart = any(not member.schema.tied for member in opened)  # then rows of output matrices are borrowed, too
            self._members += [member.untied() if apart else member for member in opened]
        return self._members

    def places(self, model: int) -> Tensor:
        """The row of every token in a model, −1 where it has none: (rows,)."""
        if model not in self._places:
            self._places[model] = self._placed(model)
        return self._places[model]

    def _placed(self, model: int) -> Tensor:
        places = torch.full((self.rows,), -1)
        for token, row in self.tokens.items():
            places[row] = self.own[model].get(token, -1)
        if model == self.owner and self.plan.multiple is None:  # and its rows of padding
            whole = vocabulary_rows(facts_of(self.sources[model]), self.sources[model].name)
            taken = set(self.tokens.values())
            for row in range(min(whole, self.rows)):
                if row not in taken:
                    places[row] = row
        return places

    def state(self, model: int, schema: Schema) -> ComputedState:
        """The weights of a model with these rows; the tensors of `schema`, of which those with other shapes change."""
        checkpoint, resized = self._members[model], self._resized(schema)
        places, order = self.places(model), torch.arange(self.rows)
        chosen = {self.tokens[one.token] for one in self.plan.tokens}
        forced = {self.tokens[one.token] for one in self.plan.tokens if one.force}

        def is_as_it_is(name: str) -> bool:
            same = schema.shapes[name] == checkpoint.schema.shapes.get(name) and torch.equal(places, order)
            return (same and not forced) or name not in resized

        def tensor(name: str) -> Tensor:
            whole: Tensor = checkpoint.state[name]
            if is_as_it_is(name):
                return whole
            moved = whole[places.clamp(min=0)].clone()
            for row, borrowed in self._borrowed(name, model).items():
                no_difference = self.base and self.places(0)[row] < 0 and row not in chosen  # to a base that lacks it
                if no_difference or places[row] < 0 or row in forced:
                    moved[row] = borrowed
            if self.plan.multiple is not None:
                count = 1 + max(self.tokens.values())
                moved[count:] = moved[:count].mean(0)
            return moved

        def blocks(name: str) -> Iterator[Tensor]:
            return in_blocks(checkpoint.state if is_as_it_is(name) else {name: tensor(name)}, name)

        return ComputedState(schema.shapes, tensor, blocks)

    def with_mean_rows(self, model: int, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state in which the rows of tokens that the model lacks are the mean of its own: they say nothing."""
        lacks = self.places(model) < 0

        def tensor(whole: Tensor) -> Tensor:
            mean = whole[~lacks].double().mean(0).to(whole.dtype)
            return torch.where(lacks.view(-1, *[1] * (whole.ndim - 1)), mean, whole)

        return {**state, **{name: tensor(state[name]) for name in self._rows_of(state)}}

    def with_rows_of_others(self, states: Sequence[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
        """States, aligned, with the rows of tokens that models lack: those of the others as they are there.

        As `state` says: of the base where that has the token, else the mean over the models that have it; relative to
        the mean of the rows of shared tokens, for a number that is added to all rows is another one in every model.
        """
        has = torch.stack([self.places(model) for model in range(len(states))]) >= 0
        completed: list[dict[str, Tensor]] = [dict(state) for state in states]
        for name in self._rows_of(states[0]):
            rows = torch.stack([state[name].double() for state in states])
            shape = (-1, *[1] * (rows.ndim - 2))
            means = rows[:, has.all(0)].mean(1, keepdim=True)
            weight = has.double().view(len(states), *shape)
            relative = ((rows - means) * weight).sum(0) / weight.sum(0).clamp_min(1)
            if self.base:
                relative = torch.where(has[0].view(shape), rows[0] - means[0], relative)
            # Of a base that lacks the token there is no difference.
            lacked = (~has if not self.base else ~has | ~has[0]) & has.any(0)
            for model, own in enumerate(completed):
                borrowed = (relative + means[0 if self.base else model]).to(own[name].dtype)
                own[name] = torch.where(lacked[model].view(shape), borrowed, own[name])
        return list(completed)

    def _rows_of(self, state: Mapping[str, Tensor]) -> list[str]:
        """The tensors of a state that have a row for every token."""
        own = self._members[self.owner]
        whole = {**own.facts, "vocab_size": self.rows, "tie_word_embeddings": False}
        shapes, larger = (
            schema_of({**whole, "vocab_size": rows}, own.name).untied().shapes for rows in (self.rows, self.rows + 1)
        )
        return [name for name in state if shapes.get(name) != larger.get(name)]

    def _resized(self, schema: Schema) -> frozenset[str]:
        """The tensors with a row for every token."""
        own = self._members[self.owner]
        more = {**own.facts, "vocab_size": vocabulary_rows(own.facts, own.name) + 1}
        shapes, larger = (schema_of(facts, own.name).untied().shapes for facts in (own.facts, more))
        return frozenset(name for name in schema.shapes if larger.get(name) != shapes.get(name))

    def _borrowed(self, name: str, model: int) -> dict[int, Tensor]:
        """Every row that any `model` lacks: the base's where that has it, else the mean over the models that have it.

        A row that no model has is the mean of the first model's: zeros would outdo rows whose logits are negative.
        """
        if name not in self._rows:
            places = torch.stack([self.places(model) for model in range(len(self._members))])
            chosen = [self.tokens[one.token] for one in self.plan.tokens]
            lacked = sorted({*(places < 0).any(0).nonzero().flatten().tolist(), *chosen})
            having: dict[int, list[Tensor]] = {row: [] for row in lacked}
            mean = torch.zeros(())
            for other, member in enumerate(self._members):
                whole = member.state[name if name in member.state else member.schema.tied[name]]
                mean = whole.mean(0) if other == 0 else mean
                for row in lacked:
                    place = int(places[other, row])
                    if place >= 0 and not (self.base and int(places[0, row]) >= 0 and other > 0):
                        having[row].append(whole[place].clone())
            self._rows[name] = {row: torch.stack(rows).mean(0) if rows else mean for row, rows in having.items()}
            self._rows[name] |= self._chosen(name, mean)
        return self._rows[name]

    def _chosen(self, name: str, like: Tensor) -> dict[int, Tensor]:
        """The rows that are not borrowed from who has them, but from where the plan says."""
        rows = {}
        for one in self.plan.tokens:
            place = self.donors[one.token]
            row = torch.zeros_like(like)
            if one.model is not None and place is not None:
                donor = self._members[one.model]
                row = donor.state[name if name in donor.state else donor.schema.tied[name]][place].clone()
            rows[self.tokens[one.token]] = row
        return rows


@dataclass(eq=False)
class TransplantedVocabulary(OneVocabulary):
    """One vocabulary, that of the `owner`: `own` has its tokens by the rows that they have in every other model."""

    _made: dict[tuple[str, int], dict[int, Tensor]] = field(default_factory=dict, repr=False)

    def original(self, model: int) -> Any:
        """A model as it was, with its own tokenizer: a checkpoint."""
        return self._members[model]

    @override
    def _borrowed(self, name: str, model: int) -> dict[int, Tensor]:
        """Every row that a model lacks: a combination of its own rows, as it is one of the donor's rows there."""
        if (name, model) not in self._made:
            places = self.places(model)
            donor, whole = (self._whole(name, place) for place in (self.owner, model))
            shared, lacked = (places >= 0).nonzero().flatten(), (places < 0).nonzero().flatten()
            shared = shared[shared < len(donor)]
            rows = whole[places[shared]]
            if donor.ndim < 2 or not len(shared):
                made = rows.mean(0, keepdim=True).expand(len(lacked), *rows.shape[1:]) if len(shared) else donor[lacked]
            else:
                made = transplanted(donor[lacked], donor[shared], rows)
            self._made[name, model] = {int(row): value for row, value in zip(lacked, made, strict=True)}
        return self._made[name, model]

    def _whole(self, name: str, model: int) -> Tensor:
        member = self._members[model]
        whole: Tensor = member.state[name if name in member.state else member.schema.tied[name]]
        return whole


class UnifiedSource(OverlaidSource):
    """The files of a model with the tokenizer of the one vocabulary, into whose order loading brings its rows."""

    def __init__(self, inner: Source, vocabulary: OneVocabulary, place: int):
        hidden = [name for name in inner.files if is_tokenizer_file(name) or name == GENERATION]
        super().__init__(inner, vocabulary.files, list(vocabulary.files.files), hidden)
        self.inner, self.vocabulary, self.model = inner, vocabulary, place

    @property
    @override
    def parts(self) -> tuple[Source, ...]:
        return self.inner.parts

    @property
    @override
    def permanent_name(self) -> str:
        return self.inner.permanent_name

    @property
    def own_rows(self) -> Mapping[str, int]:
        """The rows of the model's tokens as it is."""
        return self.vocabulary.own[self.model]

    def facts(self, families: Families | None = None) -> dict[str, Any]:
        """The content of config.json with the rows, and the ids of special tokens, of the one vocabulary."""
        owner = facts_of(self.vocabulary.sources[self.vocabulary.owner], families)
        whole = with_token_ids(facts_of(self.inner, families), owner)
        return {**whole, "vocab_size": self.vocabulary.rows}

    def unified(
        self, load: Callable[[Source], Opened], families: Families | None
    ) -> tuple[Opened, dict[str, Any], Schema, ComputedState]:
        """The model as it is, and the facts, schema and state that it has with the one vocabulary."""
        inner: Any = self.vocabulary.members(load)[self.model]
        facts = {**self.facts(families), "tie_word_embeddings": bool(inner.schema.tied)}
        schema = schema_of(facts, self.name, families)
        return inner, facts, schema, self.vocabulary.state(self.model, schema)


def facts_of(source: Source, families: Families | None = None) -> dict[str, Any]:
    """The content of config.json of a model, with an adapter or another vocabulary or not."""
    return source.facts(families) if isinstance(source, UnifiedSource) else facts_with_adapter(source, families)


def unify(
    sources: Sequence[Source], choice: Choice | VocabularyPlan, *, base: bool, families: Families | None = None
) -> tuple[list[UnifiedSource], list[Finding]]:
    """The models with one vocabulary: the ``union`` of all, or that of the ``base`` or of the first model, ``A``; or,
    ``transplant``, with the tokenizer of the first source, however they differ (`isthmus.checkpoint.transplant`); or
    what the plan of a recipe says.

    With `base`, the first of the sources is what the others were trained from. Raises IncompatibleModels where the
    tokenizers differ in more than added tokens, and none is transplanted.
    """
    transplants = choice == "transplant"
    if choice == "base" and not base:
        raise IncompatibleModels("--vocabulary base is for a method with --base: take union or A")
    plan = choice if isinstance(choice, VocabularyPlan) else VocabularyPlan()
    owner = plan.owner if plan.owner is not None else int(base) if choice == "A" else 0
    takes_all = choice == "union" or (isinstance(choice, VocabularyPlan) and plan.owner is None)
    tokenizers = [_tokenizer(source) for source in sources]
    rows = [vocabulary_rows(facts_of(source, families), source.name) for source in sources]
    own = [
        {token: row for token, row in tokenizer.tokens.items() if row < count}
        for tokenizer, count in zip(tokenizers, rows, strict=True)
    ]
    for place, source in enumerate(sources):
        if place != owner and not transplants:
            _require_one_core(sources[owner], tokenizers[owner], source, tokenizers[place])
        if place != owner and transplants:
            shared = shared_tokens(tokenizers[owner], tokenizers[place])
            own[place] = {token: row for token, row in shared.items() if row < rows[place]}
            if not own[place]:
                raise IncompatibleModels(
                    f"'{sources[owner].name}' and '{source.name}' have no token in common: nothing can be transplanted"
                )
    differences = [] if transplants else _differences(sources, tokenizers, owner)
    built = _built(tokenizers[owner])
    if takes_all:
        for place in (place for place in range(len(sources)) if place != owner):
            flags = _built(tokenizers[place]).added_tokens_decoder
            new = sorted(row for token, row in tokenizers[place].tokens.items() if token not in built.get_vocab())
            built.add_tokens([flags[row] for row in new if row in flags])
    made = [one.token for one in plan.tokens if one.token not in built.get_vocab()]
    built.add_tokens(made)
    tokens = {
        token: row for token, row in built.get_vocab().items() if takes_all or token in own[owner] or token in made
    }
    for other in tokenizers:
        built.chat_template = built.chat_template or _built(other).chat_template
    folder = WorkingFolder(Path(tempfile.gettempdir(), "isthmus-vocabulary-"))
    directory = folder.path / "tokenizer"
    built.save_pretrained(directory)
    _without_settings_of_loading(directory)
    ends = _ends(sources, tokenizers, tokens)
    _write_generation(directory, sources, owner, ends)
    missing = tuple(token for token in dict.fromkeys((*tokens, *chain(*own))) if any(token not in one for one in own))
    kind = TransplantedVocabulary if transplants else OneVocabulary
    vocabulary = kind(
        tuple(sources),
        tuple(own),
        tokens,
        plan.rows(rows[owner], 1 + max(tokens.values())),
        missing,
        owner,
        base,
        LooseFiles(Reference(directory=directory)),
        folder,
        plan,
        plan.donor_rows(sources, own, rows),
    )
    unified = [UnifiedSource(source, vocabulary, place) for place, source in enumerate(sources)]
    if isinstance(vocabulary, TransplantedVocabulary):
        taking = (place for place in range(len(sources)) if vocabulary.own[place] != vocabulary.own[owner])
        differences += [_transplant_finding(vocabulary, place) for place in taking]
    elif missing or len(set(rows)) > 1:
        whose = "their union" if takes_all else f"that of {sources[owner].name if plan.owner is not None else choice}"
        differences.append(_finding(vocabulary, whose))
    return unified, differences


def _tokenizer(source: Source) -> Tokenizer:
    names = files_to_build(source)
    source.fetch(names)
    tokenizer = build_tokenizer(source, {name: source.path(name) for name in names}) if source.has_tokenizer else None
    if tokenizer is None:
        raise IncompatibleModels(
            f"'{source.name}' has no tokenizer that transformers can read, which tells its rows: add it, or "
            "leave --vocabulary out"
        )
    return tokenizer


def _require_one_core(first: Source, tokenizer: Tokenizer, second: Source, other: Tokenizer) -> None:
    """Raise IncompatibleModels if two tokenizers differ in more than added tokens."""
    cores = [_core(one) for one in (tokenizer, other)]
    differing = cores[0] ^ cores[1]
    merges = [getattr(read_tokenizer(source), "merges", ()) for source in (first, second)]
    if differing or merges[0] != merges[1]:
        share = len(tokenizer.tokens.keys() & other.tokens.keys()) / len(tokenizer.tokens.keys() | other.tokens.keys())
        raise IncompatibleModels(
            f"'{first.name}' and '{second.name}' have different tokenizers, not only added tokens ({share:.0%} of "
            "their tokens are common): one vocabulary takes tokenizers that were one; --vocabulary transplant gives "
            "all that of the first, at a loss that is measured"
        )


def _built(tokenizer: Tokenizer) -> Any:
    """The tokenizer of transformers, which `_tokenizer` has required."""
    return tokenizer.built


def _core(tokenizer: Tokenizer) -> set[str]:
    """The tokens of a tokenizer's own vocabulary, without added ones."""
    built = _built(tokenizer)
    backend = getattr(built, "backend_tokenizer", None)
    if backend is not None:
        return set(backend.get_vocab(with_added_tokens=False))
    return set(tokenizer.tokens) - {str(token) for token in built.added_tokens_decoder.values()}


def _without_settings_of_loading(directory: Path) -> None:
    """Take out what says how the tokenizer was loaded here."""
    file = directory / TOKENIZER_SETTINGS
    settings = parse_object(file.read_bytes(), f"'{TOKENIZER_SETTINGS}'")
    write_json(file, {key: value for key, value in settings.items() if key not in ("local_files_only", "is_local")})


def _differences(sources: Sequence[Source], tokenizers: Sequence[Tokenizer], owner: int) -> list[Finding]:
    """What tokenizers do differently beside having other tokens; special tokens and chat templates that differ.

    A template that only some have is no difference: the first is taken.
    """
    findings = []
    first = sources[owner]
    for place, source in enumerate(sources):
        if place != owner:
            one, other = tokenizers[owner], tokenizers[place]
            findings += behaviour_findings(one, first.name, other, source.name, TOKENIZER_SETTINGS, first.name)
            both = one.templates.keys() & other.templates.keys()
            one, other = (
                replace(each, templates={name: each.templates[name] for name in both}) for each in (one, other)
            )
            findings += detail_findings(one, first.name, other, source.name, first.name)
    return findings


def _ends(sources: Sequence[Source], tokenizers: Sequence[Tokenizer], tokens: Mapping[str, int]) -> list[int]:
    """The end tokens of all models, by their ids in the one vocabulary."""
    ends: dict[int, None] = {}
    for source, tokenizer in zip(sources, tokenizers, strict=True):
        generation = source.json(GENERATION) if GENERATION in source.files else {}
        stated = generation.get("eos_token_id", facts_of(source).get("eos_token_id"))
        texts: dict[Any, str] = {row: token for token, row in tokenizer.tokens.items()}
        names = [texts.get(row) for row in (stated if isinstance(stated, list) else [stated])]
        names += [tokenizer.special.get("eos_token")]
        ends |= dict.fromkeys(tokens[name] for name in names if name is not None and name in tokens)
    return list(ends)


def _write_generation(directory: Path, sources: Sequence[Source], owner: int, ends: Sequence[int]) -> None:
    """Generation settings: the owner's, else the first there are; generation stops at the end tokens of all models."""
    ordered = [sources[owner], *sources]
    having = next((source for source in ordered if GENERATION in source.files), None)
    settings = {} if having is None else having.json(GENERATION)
    if having is not sources[owner]:
        settings = with_token_ids(settings, facts_of(sources[owner]))
    if ends:
        write_json(directory / GENERATION, {**settings, "eos_token_id": ends[0] if len(ends) == 1 else list(ends)})
    elif settings:
        write_json(directory / GENERATION, settings)


def _transplant_finding(vocabulary: TransplantedVocabulary, model: int) -> Finding:
    donor, name = vocabulary.sources[vocabulary.owner].name, vocabulary.sources[model].name
    shared, count = len(vocabulary.own[model]), len(vocabulary.tokens)
    what = f"'{name}' takes the tokenizer of '{donor}', of whose {count} tokens it has {shared} ({shared / count:.0%})"
    advice = (
        f"the rows of the other {count - shared} are combinations of its own, as those of '{donor}' are of the same "
        "tokens; what it loses by that is in the report"
    )
    facts = facts_of(vocabulary.sources[vocabulary.owner])
    width = next((facts[key] for key in WIDTHS if isinstance(facts.get(key), int)), 0)
    minutes = pursuit_seconds(count - shared, shared, width) / 60
    if minutes > WORTH_SAYING:
        advice += f", and they take about {minutes:.0f} minutes to compute on two cores"
    return Finding("degrades", what, advice, TOKENIZER_SETTINGS)


def _finding(vocabulary: OneVocabulary, whose: str) -> Finding:
    shown = ", ".join(f"'{plain(token, 40)}'" for token in vocabulary.missing[:SHOWN])
    shown += ", ..." * (len(vocabulary.missing) > SHOWN)
    count = len(vocabulary.missing)
    what = f"the vocabularies differ: {count} token{'s' * (count != 1)} that not all models have ({shown})"
    if not count:
        what = "the embeddings have different numbers of rows, for the same tokens"
    left_out = sum(token not in vocabulary.tokens for token in vocabulary.missing)
    whose += f", without {left_out} of them" * bool(left_out)
    advice = f"one of {vocabulary.rows} rows, {whose}, is merged; rows are averaged over the models that have the token"
    return Finding("notes", what, advice, TOKENIZER_SETTINGS)
