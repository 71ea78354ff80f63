"""The tokenizer of one model for models of other tokenizers: rows for its tokens, made of rows that they have.

Of every model, a token that both have keeps its row. A token that only the donor has is written, in the donor, as a
sparse combination of tokens that both have, and takes the same combination of the model's own rows (training-free
transplantation by orthogonal matching pursuit: Goddard and Fernandes Neto 2025, arXiv 2506.06607).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .tokenizer import Tokenizer

ATOMS = 64  # of a combination, at most
ROWS_AT_ONCE = 256
OPERATIONS = 7e10  # a second, of float32 products on two cores
# A token of several roles is what it is in the first: one that ends texts often pads them, too.
ROLES_IN_ORDER = ("eos_token", "bos_token", "sep_token", "cls_token", "mask_token", "unk_token", "pad_token")
SPACE, PIECE_SPACE = " ", "\u2581"


def transplanted(donor: Tensor, anchors: Tensor, rows: Tensor, atoms: int = ATOMS) -> Tensor:
    """Rows (m, e) of tokens that a model lacks: Σ_j c_ij rows_j, where donor_i ≈ Σ_j c_ij anchors_j with few c_ij.

    `donor` (m, d) are the donor's rows of these tokens, `anchors` (n, d) its rows of tokens that both have, and `rows`
    (n, e) the model's. Computed in float64, returned in the dtype of `rows`.
    """
    count = min(atoms, len(anchors), anchors.shape[1])
    dictionary, made = anchors.double(), []
    for part in donor.double().split(ROWS_AT_ONCE):
        chosen, coefficients = matching_pursuit(part, dictionary, count)
        made.append(torch.einsum("mk,mke->me", coefficients, rows[chosen].double()))
    return torch.cat(made).to(rows.dtype) if made else rows[:0]


def matching_pursuit(targets: Tensor, atoms: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit (Pati et al. 1993) of every target among the atoms.

    Step by step the atom is taken with the largest |⟨r, a⟩| / ‖a‖ for what is left, r, and the target is projected on
    all atoms that were taken. `targets` (m, d), `atoms` (n, d), float64; returns the atoms, (m, count) int64, and their
    coefficients (m, count). Atoms are compared in float32, which the time goes into: 2 · count · m · n · d operations.
    """
    norms = atoms.norm(dim=1).clamp_min(1e-12)
    directions = (atoms / norms[:, None]).float().T
    residual, chosen = targets.clone(), torch.empty(len(targets), 0, dtype=torch.int64)
    coefficients = torch.empty(len(targets), 0, dtype=targets.dtype)
    for _ in range(count):
        fit = (residual.float() @ directions).abs_()
        fit.scatter_(1, chosen, -1.0)  # none twice
        chosen = torch.cat([chosen, fit.argmax(1, keepdim=True)], 1)
        basis = atoms[chosen]  # (m, k, d)
        gram = basis @ basis.mT
        size = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)  # of rows that are zero, too
        ridge = 1e-10 * size[:, None, None] * torch.eye(chosen.shape[1]).to(gram)
        coefficients = torch.linalg.solve(gram + ridge, basis @ targets[..., None])[..., 0]
        residual = targets - torch.einsum("mk,mkd->md", coefficients, basis)
    return chosen, coefficients


def pursuit_seconds(tokens: int, anchors: int, width: int) -> float:
    """About how long `transplanted` takes on two cores for this many tokens and anchors of rows (width)."""
    return 2 * min(ATOMS, anchors, width) * tokens * anchors * width / OPERATIONS


def shared_tokens(donor: Tokenizer, other: Tokenizer) -> dict[str, int]:
    """The tokens of a donor that another tokenizer has, by the row that they have there.

    Tokens are the same that stand for the same text, however their tokenizer writes a space or a byte; special ones,
    that have the same name, or else the same role.
    """
    rows: dict[bytes | str, int] = {}
    for token, row in other.tokens.items():
        rows.setdefault(_text(token, other), row)
    found = {}
    for token in donor.tokens:
        text = _text(token, donor)
        if text in rows:
            found[token] = rows[text]
    for role in ROLES_IN_ORDER:
        first, second = donor.special.get(role), other.special.get(role)
        if first in donor.tokens and first not in found and second in other.tokens:
            found[str(first)] = other.tokens[str(second)]
    return found


def _text(token: str, tokenizer: Tokenizer) -> bytes | str:
    """The bytes that a token stands for; of an added token its name."""
    if token in _added(tokenizer):
        return token
    if _is_of_bytes(tokenizer) and all(letter in _BYTES for letter in token):
        return bytes(_BYTES[letter] for letter in token)
    if _BYTE.fullmatch(token):
        return bytes([int(token[3:5], 16)])
    if _is_of_pieces(tokenizer):
        text = token.removeprefix("##") if token.startswith("##") else f"{SPACE}{token}"
        return text.encode()
    return token.replace(PIECE_SPACE, SPACE).encode()


def _added(tokenizer: Tokenizer) -> frozenset[str]:
    built: Any = tokenizer.built
    return frozenset(map(str, built.added_tokens_decoder.values())) if built is not None else frozenset()


def _is_of_bytes(tokenizer: Tokenizer) -> bool:
    """Whether letters stand for bytes, as in GPT-2."""
    backend = getattr(tokenizer.built, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in f"{backend.decoder!r}{backend.pre_tokenizer!r}"


def _is_of_pieces(tokenizer: Tokenizer) -> bool:
    """Whether the rest of a word is written with ##, as in BERT."""
    backend = getattr(tokenizer.built, "backend_tokenizer", None)
    return backend is not None and type(backend.model).__name__ == "WordPiece"


def _letters() -> dict[str, int]:
    """GPT-2's letters of bytes (Radford et al. 2019): printable ones are themselves, the others follow from 256 on."""
    printable: Sequence[int] = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _letters()
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
