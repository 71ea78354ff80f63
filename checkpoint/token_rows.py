"""What a recipe may say of a vocabulary beside whose it is: where the rows of single tokens come from, and padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import BadInput
from .source import Source
from .tokenizer import read_tokenizer


@dataclass(frozen=True)
class ChosenRow:
    """The row of a `token`: that of the model at the place `model`, of its token `other` where one is named, by text or
    by id; zeros where `model` is None. Models that have the token take it only with `force`. `place` says in errors
    where it was asked for.
    """

    token: str
    model: int | None
    other: str | int | None = None
    force: bool = False
    place: str = ""


@dataclass(frozen=True)
class VocabularyPlan:
    """The vocabulary of a recipe: of the model at the place `owner`, None for the union of all; the rows of some
    `tokens`; a number that the number of rows is a `multiple` of, where rows of padding are the mean of all others.
    """

    owner: int | None = None
    tokens: tuple[ChosenRow, ...] = ()
    multiple: int | None = None

    def rows(self, owned: int, tokens: int) -> int:
        """The rows of the merge, whose owner has `owned`, and whose last token is the one before `tokens`."""
        if self.multiple is None:
            return max(owned, tokens)
        return -(-tokens // self.multiple) * self.multiple

    def donor_rows(
        self, sources: Sequence[Source], own: Sequence[Mapping[str, int]], counts: Sequence[int]
    ) -> dict[str, int | None]:
        """The row in the model that it comes from, of every token that is chosen; None for zeros.

        `own` are the rows of every model's tokens, `counts` how many rows it has. Raises BadInput for a token or a row
        that a model does not have.
        """
        rows: dict[str, int | None] = {}
        for chosen in self.tokens:
            if chosen.model is None:
                rows[chosen.token] = None
                continue
            name = sources[chosen.model].name
            if isinstance(chosen.other, int):
                if chosen.other >= counts[chosen.model]:
                    raise BadInput(
                        f"{chosen.place}: '{name}' has {counts[chosen.model]} rows, none of the id {chosen.other}"
                    )
                rows[chosen.token] = chosen.other
                continue
            token = chosen.token if chosen.other is None else chosen.other
            if token not in own[chosen.model]:
                raise BadInput(f"{chosen.place}: '{name}' has no token '{token}': its row comes from another model")
            rows[chosen.token] = own[chosen.model][token]
        return rows


def is_one_vocabulary(sources: Sequence[Source], rows: Sequence[int]) -> bool:
    """Whether models have one vocabulary already, by their files alone; also where that cannot be told from them."""
    if len(set(rows)) > 1:
        return False
    tokenizers = [read_tokenizer(source) for source in sources if source.has_tokenizer]
    tokens = [tokenizer.tokens for tokenizer in tokenizers if tokenizer is not None]
    return len(tokens) < len(tokenizers) or all(one == tokens[0] for one in tokens)
