"""What two tokenizers do differently: with the same texts, or by their files if they cannot be built."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..rust_panics import attempt
from ..tokenizer import ROLES, Tokenizer
from .finding import Finding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNREADABLE = "nobody could open a merge with it; repair its files, or remove them"
LABELS = {"added_tokens": "flags of added tokens"}
# Several scripts, digits, contractions, white space, punctuation, symbols, rare characters.
TEXTS = (
    "The ferry left at dawn; nobody waved.",
    "the Ferry LEFT At dAWN",
    " two  spaces, a leading one, and a trailing one ",
    "   three\tand a tab\n\n  then lines\r\n\tend\n",
    "I'm sure they'll say it isn't what we've heard, it's hers. I'D GO, THEY'RE IN.",
    "0 7 42 365 1024 31337 20260115 3.14159 1,000,000 -5 1e-9 0x7f ½ ² ٣٤",
    "def area(r_1, x):\n    return {'k': [r_1 ** 2, x != 3]}  # ok?\n",
    "a/b\\c_d-e+f=g~h`i|j<k>l@m#n$o%p^q&r*(s)[t]{u}",
    "...!? -- \u2014 \u2026 \u201cquoted\u201d \u00abaussi\u00bb \u2018so\u2019",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m Stra\u00dfe \u0141\u00f3d\u017a \u0130stanbul",
    "cafe\u0301 \ufb01ne \u212b \uff21\uff22\uff23 \u2460",  # decomposed, ligature, full width
    "\u041f\u0430\u0440\u043e\u043c \u0443\u0448\u0451\u043b "
    "\u043d\u0430 \u0440\u0430\u0441\u0441\u0432\u0435\u0442\u0435.",
    "\u03a4\u03bf \u03c0\u03bb\u03bf\u03af\u03bf \u03ad\u03c6\u03c5\u03b3\u03b5.",
    "\u6e21\u8239\u5728\u9ece\u660e\u65f6\u5206\u79bb\u5f00\u4e86\u3002\u6ca1\u6709\u4eba\u6325\u624b\u3002",
    "\u30d5\u30a7\u30ea\u30fc\u306f\u591c\u660e\u3051\u306b\u51fa\u305f\u3002",
    "\ub098\ub8fb\ubc30\uac00 \uc0c8\ubcbd\uc5d0 \ub5a0\ub0ac\ub2e4.",
    "\u063a\u0627\u062f\u0631\u062a \u0627\u0644\u0639\u0628\u0627\u0631\u0629 "
    "\u0639\u0646\u062f \u0627\u0644\u0641\u062c\u0631.",
    "\u05d4\u05de\u05e2\u05d1\u05d5\u05e8\u05ea \u05d9\u05e6\u05d0\u05d4.",
    "\u0928\u093e\u0935 \u092d\u094b\u0930 \u092e\u0947\u0902 \u091a\u0932\u0940 \u0917\u0908\u0964",
    "\u0e40\u0e23\u0e37\u0e2d\u0e2d\u0e2d\u0e01\u0e15\u0e2d\u0e19\u0e40\u0e0a\u0e49\u0e32",
    "\U0001f6a2 \U0001f44b\U0001f3fd \U0001f469\u200d\U0001f52c \U0001f1eb\U0001f1ee \u2764\ufe0f \u2713",
    "\u16a0\u16c7 \U00010330\U00010331 \u2200x\u2208\u211d: x\u00b2\u22650 \u222b \u00a0\u200b\u2003|",
    "zx qj Wvk xxq pqr sghf brrr",
)
SAMPLE, SPECIAL = 8192, 64  # the most tokens of the vocabulary, and special tokens, that become texts
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "model", "added_tokens")
# Settings that do not change ids, or that are compared elsewhere.
_WITHOUT_EFFECT = frozenset({"trim_offsets", "vocab", "merges", "dropout", "id"})


def behaviour_findings(
    first: Tokenizer, name_a: str, second: Tokenizer, name_b: str, file: str, keeper: str
) -> list[Finding]:
    """What two tokenizers do differently. They differ in `file`; the merge has the tokenizer of `keeper`."""
    taken = f"the merge has the tokenizer of '{keeper}'"
    other_tokens = f"the same text becomes other tokens; {taken}"
    if first.built is None or second.built is None:
        findings = []
        for tokenizer, name in ((first, name_a), (second, name_b)):
            what = f"transformers cannot build the tokenizer of '{name}' from its files"
            if tokenizer.built is None and name == keeper:
                findings.append(Finding("blocks", what, UNREADABLE, file))
            elif tokenizer.built is None:
                findings.append(Finding("notes", what, f"they are compared as they are written; {taken}", file))
        written = _parts(_written_differences(first, second), name_a, name_b)
        return [*findings, *(Finding("degrades", what, other_tokens, file) for what in written)]
    settings_a, settings_b = _settings(first.built), _settings(second.built)
    # Tokens that only one of them has, and tokens with other roles, are reported elsewhere.
    roles = [{first.special.get(role), second.special.get(role)} for role in ROLES]
    apart = (first.tokens.keys() ^ second.tokens.keys()).union(*(pair for pair in roles if len(pair) > 1))
    excluded = {token for token in apart if token}
    for settings in (settings_a, settings_b):
        settings["added_tokens"] = [t for t in settings.get("added_tokens") or [] if t["content"] not in excluded]
    parts = [part for part in (*PARTS, "merges") if _relevant(settings_a, part) != _relevant(settings_b, part)]
    texts = _probes(first, second, _merged(settings_a) ^ _merged(settings_b), excluded)
    ids_a, ids_b = _encoded(first.built, texts), _encoded(second.built, texts)
    encoded_apart = [text for text, a, b in zip(texts, ids_a, ids_b, strict=True) if a != b]
    findings, sentences = [], _parts(parts, name_a, name_b)
    if encoded_apart and parts:
        findings += [Finding("degrades", what, other_tokens, file) for what in sentences]
    elif encoded_apart:
        shown = json.dumps(encoded_apart[0], ensure_ascii=False)
        what = f"'{name_a}' and '{name_b}' make other tokens of the same text, for instance of {shown}"
        findings.append(Finding("degrades", what, taken, file))
    elif parts:
        what = f"{sentences[0]}, without effect on {len(texts)} short texts"
        findings.append(Finding("notes", what, taken, file))
    decode_a, decode_b = first.built.decode, second.built.decode
    for text, ids in zip(texts[: len(TEXTS)], ids_a, strict=False):
        if ids is not None and attempt(partial(decode_a, ids)) != attempt(partial(decode_b, ids)):
            shown = json.dumps(text, ensure_ascii=False)
            what = f"'{name_a}' and '{name_b}' make other text of the same tokens, for instance of those of {shown}"
            return [*findings, Finding("degrades", what, taken, file)]
    return findings


def _written_differences(first: Tokenizer, second: Tokenizer) -> list[str]:
    parts = []
    if first.pipeline and second.pipeline:
        parts = [part for part in first.pipeline if _contradict(first.pipeline[part], second.pipeline[part])]
    return [*parts, "merges"] if first.merges != second.merges else parts


def _contradict(a: Any, b: Any) -> bool:
    """Whether two settings state different values; a value that only one states may be the default of the other."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return any(_contradict(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return any(map(_contradict, a, b))
    return bool(a != b)


def _parts(parts: Sequence[str], name_a: str, name_b: str) -> list[str]:
    """One sentence on the merge rules, one on all other parts that differ."""
    sentences = []
    if "merges" in parts:
        sentences.append(f"the merge rules of '{name_b}' differ from those of '{name_a}'")
    others = [part for part in (*PARTS, *parts) if part in parts and part != "merges"]
    others = [LABELS.get(part, part) for part in dict.fromkeys(others)]
    if others:
        singular = len(others) == 1 and others[0] != LABELS["added_tokens"]
        differ = "differs from that" if singular else "differ from those"
        sentences.append(f"the {' and '.join(others)} of '{name_b}' {differ} of '{name_a}'")
    return sentences


def _probes(first: Tokenizer, second: Tokenizer, merged: Iterable[str], excluded: set[str]) -> list[str]:
    """`TEXTS`, texts with special tokens inside, and the texts of tokens of the vocabulary."""
    assert first.built is not None
    shared = [token for token in sorted(first.tokens, key=first.tokens.__getitem__) if token in second.tokens]
    pieces = [token for token in sorted(merged) if token in first.tokens or token in second.tokens][:SAMPLE]
    pieces += shared[:: max(1, len(shared) // SAMPLE)]
    special = sorted(set(first.built.get_added_vocab()) & set(second.tokens), key=first.tokens.__getitem__)[:SPECIAL]
    texts = [*TEXTS, *(f"so {token} it{token}goes {token} " for token in special)]
    to_text = first.built.convert_tokens_to_string
    texts += filter(None, (attempt(partial(to_text, [piece])) for piece in dict.fromkeys(pieces)))
    sample = excluded if len(excluded) < 1000 else set(sorted(excluded)[:1000])
    return [text for text in texts if not any(token in text for token in sample)]


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Any]:
    """The ids of every text; None for a text on which the tokenizer fails."""
    ids = attempt(lambda: list(tokenizer(list(texts), verbose=False)["input_ids"]))
    if ids is not None:
        return ids
    return [None] if len(texts) == 1 else [_encoded(tokenizer, [text])[0] for text in texts]


def _settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The content of a tokenizer.json with all defaults filled in; empty if the tokenizer has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    settings: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    return settings


def _merges(settings: Mapping[str, Any]) -> list[tuple[str, ...]]:
    merges = (settings.get("model") or {}).get("merges") or []
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]


def _merged(settings: Mapping[str, Any]) -> set[str]:
    """The tokens that merges make."""
    return {"".join(merge) for merge in _merges(settings)}


def _relevant(settings: Mapping[str, Any], part: str) -> object:
    if part == "merges":
        return _merges(settings)
    if part == "added_tokens":
        return {token["content"]: _without(token) for token in settings.get(part) or []}
    return _without(settings.get(part))


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        stated = {key: inner for key, inner in value.items() if inner not in (None, "")}  # both mean: not set
        return {key: _without(inner) for key, inner in stated.items() if key not in _WITHOUT_EFFECT}
    return [_without(inner) for inner in value] if isinstance(value, list) else value
