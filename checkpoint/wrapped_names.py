"""Names of tensors that something around the model lengthened: torch.compile, parallel training, FSDP, a trainer.

What wraps the model without changing it is taken off. peft's names stay: there, the tensors are others, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

_MERGE = "merge the adapter into the model (merge_and_unload), and save that"
_INSIDE = "save the model inside (model.module.save_pretrained)"
# Parts of names that a wrapper adds; what wraps the model, and how to save it without.
WRAPPERS = {
    "_orig_mod": ("torch.compile", "save the model that was compiled (model._orig_mod.save_pretrained)"),
    "module": ("parallel training", _INSIDE),
    "_fsdp_wrapped_module": ("FSDP", "save the full state through accelerate or the Trainer of transformers"),
    "_checkpoint_wrapped_module": ("activation checkpointing", "save the model without its wrappers"),
    "_forward_module": ("a wrapper for training", _INSIDE),
    "base_model": ("PEFT", _MERGE),
    "base_layer": ("PEFT", _MERGE),
}
# Of these, what may stand anywhere in a name, and what stands before all of them, beside a trainer's own ``model``.
ANYWHERE = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
LEADING = frozenset({"module", "_forward_module", "model"})


@dataclass(frozen=True)
class Unwrapped:
    """Names without what wrappers added: `plain` by the names in the files, and the `wrappers` that were taken off."""

    plain: Mapping[str, str]
    wrappers: tuple[str, ...]


def unwrapped(names: Iterable[str]) -> Unwrapped | None:
    """Names without wrappers; None where there are none, or two names would become one.

    A leading ``model`` is taken off once, if all names have it.
    """
    parts = {name: name.split(".") for name in names}
    wrappers = dict.fromkeys(part for before in parts.values() for part in before if part in ANYWHERE)
    rest = {name: [part for part in before if part not in ANYWHERE] for name, before in parts.items()}
    while leading := _leading(rest.values(), LEADING - (wrappers.keys() & {"model"})):
        wrappers[leading] = None
        rest = {name: kept[1:] for name, kept in rest.items()}
    plain = {name: ".".join(kept) for name, kept in rest.items()}
    return Unwrapped(plain, tuple(wrappers)) if wrappers and len(set(plain.values())) == len(plain) else None


def _leading(names: Collection[Sequence[str]], words: Collection[str]) -> str | None:
    """The word, one of some, that all names begin with."""
    firsts = {name[0] for name in names if len(name) > 1}
    word = firsts.pop() if len(firsts) == 1 else None
    return word if word in words and all(len(name) > 1 for name in names) else None


def wrapper_of(unknown: Sequence[str], shapes: Iterable[str]) -> str | None:
    """The part that a wrapper added to names, if without it they are the names of the model."""
    expected = set(shapes)
    for wrapper in WRAPPERS:
        inside = [name for name in unknown if wrapper in name.split(".")]
        unwrapped = [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in inside]
        tails = {name.split(".", 1)[-1] for name in expected}
        if any(name in expected or name in tails or name.removeprefix("model.") in expected for name in unwrapped):
            return wrapper
    everywhere = (wrapper for wrapper in WRAPPERS if all(wrapper in name.split(".") for name in unknown))
    return next(everywhere, None) if unknown else None
