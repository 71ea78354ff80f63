"""Commands of typer from functions: a parameter that is a plan stands for the options that the plan describes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from operator import itemgetter
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import typer
from typer.core import TyperCommand

from .options import PANELS, Field, Option, build, options_of, value_of
from .plans import SEARCHES

Command = Callable[..., None]


def shown_examples(*examples: tuple[str, str]) -> str:
    """Examples, (what for, the command), as a help shows them."""
    shown = [f"{purpose}\n  isthmus {words}" for purpose, words in examples]
    return "\n\n".join(["Examples", *shown])


class Given(dict[str, str]):
    """The options on the command line, by their first names, as they are written there."""


class _Command(TyperCommand):
    """A command in which `--search` may stand alone, as it did when there was one way to search."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of a command line."""
        followed = zip(args, [*args[1:], "-"], strict=False)
        alone = [word == "--search" and following.startswith("-") for word, following in followed]
        spelled = [f"--search={SEARCHES[0]}" if one else word for word, one in zip(args, alone, strict=True)]
        return super().parse_args(ctx, spelled)


def command(
    group: typer.Typer, *examples: tuple[str, str], name: str | None = None, about: str = ""
) -> Callable[[Command], Command]:
    """Make a function a command of a group. Its help is `about`, or its docstring, and `examples`."""

    def register(function: Command) -> Command:
        paragraphs = (about or inspect.getdoc(function) or "").split("\n\n")
        words = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        group.command(name, cls=_Command, help=words, epilog=shown_examples(*examples))(_with_options(function))
        return function

    return register


def _with_options(function: Command) -> Command:
    """The function as typer reads it: in place of a parameter that is a plan, the options of that plan."""
    readers: dict[str, Callable[[dict[str, Any]], Any]] = {}
    words = {"context": inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind, *marks = get_args(parameter.annotation) or (parameter.annotation,)
        mark = next((mark for mark in marks if isinstance(mark, Option)), None)
        described: list[Field] = []
        if isinstance(kind, type) and is_dataclass(kind):
            only = next((mark for mark in marks if isinstance(mark, tuple)), None)
            readers[name], described = partial(build, kind, only=only), options_of(kind, only)
        elif mark is not None:
            described = [Field(name, kind, mark.named(name), None, parameter.default)]
            readers[name] = partial(value_of, described[0])
        else:
            readers[name] = itemgetter(name)
        if not described and kind is not Given:
            words[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for field in described:
            words.setdefault(field.key, _as_parameter(field))

    def run(context: typer.Context, **values: Any) -> None:
        values["given"] = _given(context)
        function(**{name: read(values) for name, read in readers.items()})

    ordered = sorted(words.values(), key=_place_in_help)
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in ordered}
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


def _as_parameter(field: Field) -> inspect.Parameter:
    described, kind = cast("Option", field.option), cast("Any", field.kind)
    default = described.unset if field.default is None else None if field.many else field.default
    if field.many:
        kind = cast("Any", list)[str if described.read else get_args(kind)[0]] | None
    elif described.read:
        kind = str
    elif choices := _choices(kind):
        kind = Literal[(described.unset, *choices) if described.unset else choices]
        kind = kind | None if default is None else kind
    typer_option = typer.Option(
        *(described.name, described.short) if described.short else (described.name,),
        help=described.help,
        min=described.minimum,
        show_default=described.shown_default or default not in (None, inspect.Parameter.empty),
        rich_help_panel=described.panel,
    )
    return inspect.Parameter(
        field.key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, typer_option]
    )


def _choices(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for part in get_args(kind) for word in _choices(part))


def _place_in_help(parameter: inspect.Parameter) -> int:
    """Where in the help the panel of an option stands: the one without a name of its own comes first."""
    panels = [getattr(mark, "rich_help_panel", None) for mark in get_args(parameter.annotation)]
    panel = next((panel for panel in panels if panel), None)
    return (None, *PANELS).index(panel)


def _given(context: typer.Context) -> Given:
    given = Given()
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE" and parameter.param_type_name == "option":
            off = context.params.get(str(parameter.name)) is False and parameter.secondary_opts
            given[parameter.opts[0]] = (parameter.secondary_opts if off else parameter.opts)[0]
    return given
