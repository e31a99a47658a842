"""Renders the texts of a diskimage as Jinja2 templates over its platform.

The sandbox is strict: an undefined name is an error. It has no randomness, no macros and no way to
run or grow without end, since a daemon renders again at every change of the file. There are no template
comments: "{#" is ordinary shell, as in "${#list[@]}", and YAML has comments of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from builder.config.model import Platform
from builder.config.problems import shortened, suggestion

MAX_RANGE: Final = 1_000
MAX_LOOP_DEPTH: Final = 2
MAX_LENGTH: Final = 100_000
MAX_VARIABLE_DEPTH: Final = 30
MAX_NUMBER: Final = 2**63

#: A text that has none of these is no template and is left alone.
_MARKS = ("{{", "{%")
#: Can't occur in a configuration, which has no NUL characters.
_NEVER = "\0"
#: What template code may raise by itself, besides TemplateError: it is ordinary Python underneath.
_FAILURES = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
_FORBIDDEN = (nodes.Macro, nodes.CallBlock, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
#: Filters whose work is bounded by what they are given, and that give the same every time.
FILTERS: Final = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join"),
    *("last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse"),
    *("select", "selectattr", "sort", "string", "sum", "title", "trim", "unique", "upper", "urlencode"),
)
#: Methods of text that make as much of it as they are told to.
_UNBOUNDED_METHODS = frozenset({"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"})


class TemplateTextError(Exception):
    """A text can't be rendered; says why. The loader makes it a problem at the text's place."""


class _Names:
    """Names a template reaches by a dot; a value that is a template itself is rendered when asked for."""

    def __init__(self, title: str, names: Iterable[str], resolve: Callable[[str], Any]) -> None:
        self.names = frozenset(names)
        self.resolve = resolve
        self._title = title

    def __str__(self) -> str:
        return self._title


class _Undefined(StrictUndefined):
    """An undefined name whose message names what the platform does have."""

    @property
    def _undefined_message(self) -> str:
        name = str(self._undefined_name)
        owner = self._undefined_obj
        if isinstance(owner, _Names):
            return f"{owner} has no {name!r}{suggestion(name, owner.names)}"
        if self._undefined_hint:
            return self._undefined_hint
        return f"{name!r} is undefined; a template knows 'platform' and 'diskimage'"


class _Environment(ImmutableSandboxedEnvironment):
    """Arithmetic and text that stay small, and names before methods."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = all(isinstance(side, int | float) and abs(side) < MAX_NUMBER for side in (left, right))
        if operator == "**" or not numbers:
            raise SecurityError(f"the operator {operator!r} is for small numbers only, '**' for none")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, _Names):
            if attribute in obj.names:
                return obj.resolve(attribute)
            return self.undefined(obj=obj, name=attribute)
        if isinstance(obj, str) and attribute in _UNBOUNDED_METHODS:
            return self.unsafe_undefined(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self.getattr(obj, argument) if isinstance(argument, str) else super().getitem(obj, argument)


def _environment() -> _Environment:
    environment = _Environment(
        undefined=_Undefined,
        keep_trailing_newline=True,
        autoescape=False,
        comment_start_string=f"{_NEVER}<",
        comment_end_string=f">{_NEVER}",
    )
    environment.globals = {"range": _range}
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    return environment


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise OverflowError(f"a range of more than {MAX_RANGE} numbers")
    return numbers


_ENVIRONMENT = _environment()


def is_template(text: str) -> bool:
    """Whether rendering could change the text."""
    return any(mark in text for mark in _MARKS)


def check_syntax(text: str) -> None:
    """Raise TemplateTextError when the text is no valid template."""
    if is_template(text):
        _parse(text)


def render(text: str, names: Mapping[str, Any]) -> str:
    """The text with its template rendered over `names`; raises TemplateTextError."""
    if not is_template(text):
        return text
    tree = _parse(text)
    try:
        rendered = _ENVIRONMENT.from_string(tree).render(names)
    except _FAILURES as error:
        raise TemplateTextError(_explain(error)) from error
    if len(rendered) > MAX_LENGTH:
        raise TemplateTextError(f"renders to more than {MAX_LENGTH} characters")
    return rendered


def names_for(platform: Platform | None, image: str | None = None) -> Mapping[str, Any]:
    """What templates of a diskimage can name: `platform` when it has one, `diskimage` once it has a name."""
    names: dict[str, Any] = {}
    if platform is not None:
        names["platform"] = _names_of(platform)
    if image is not None:
        names["diskimage"] = _plain_names(f"diskimage {image!r}", {"name": image})
    return names


def render_variables(
    platform: str, fields: Mapping[str, str], variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """A platform's variables, which may be templates over its fields and over each other, rendered.

    Returns the rendered variables, and for each variable that can't be rendered, why.
    """
    resolver = _Resolver(platform, fields, variables)
    rendered: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in variables:
        try:
            rendered[name] = resolver.resolve(name)
        except TemplateTextError as problem:
            failed[name] = str(problem)
    return rendered, failed


class _Resolver:
    """Renders variables when they are asked for, and notices when one ends up asking for itself."""

    def __init__(self, platform: str, fields: Mapping[str, str], variables: Mapping[str, Any]) -> None:
        self._values = {**variables, **fields}
        self._names = {"platform": _Names(f"platform {platform!r}", self._values, self.resolve)}
        self._done: dict[str, Any] = dict(fields)
        self._failed: dict[str, TemplateTextError] = {}
        self._open: list[str] = []

    def resolve(self, name: str) -> Any:
        """The rendered value of a field or variable; raises TemplateTextError."""
        if name in self._done:
            return self._done[name]
        if name in self._failed:
            raise self._failed[name]
        if name in self._open:
            cycle = [*self._open[self._open.index(name) :], name]
            raise TemplateTextError(f"template loop: {' -> '.join(cycle)}")
        if len(self._open) >= MAX_VARIABLE_DEPTH:
            raise TemplateTextError(f"variables refer to each other more than {MAX_VARIABLE_DEPTH} deep")
        self._open.append(name)
        try:
            self._done[name] = self._render(self._values[name])
        except TemplateTextError as error:
            self._failed[name] = error  # or every variable of a long chain would walk all of it
            raise
        finally:
            self._open.pop()
        return self._done[name]

    def _render(self, value: Any) -> Any:
        if isinstance(value, str):
            return render(value, self._names)
        if isinstance(value, list):
            return [self._render(item) for item in value]
        if isinstance(value, dict):
            return {key: self._render(item) for key, item in value.items()}
        return value


def _names_of(platform: Platform) -> _Names:
    fields = {
        "name": platform.name,
        "distribution": platform.distribution,
        "release": platform.release,
        "architecture": platform.architecture,
        "mirror": platform.mirror,
        "security_mirror": platform.security_mirror,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return _plain_names(f"platform {platform.name!r}", {**platform.variables, **given})


def _plain_names(title: str, values: Mapping[str, Any]) -> _Names:
    return _Names(title, values, values.__getitem__)


def _parse(text: str) -> nodes.Template:
    try:
        tree = _ENVIRONMENT.parse(text)
        _check_bounds(tree)
    except _FAILURES as error:
        raise TemplateTextError(_explain(error)) from error
    return tree


def _check_bounds(tree: nodes.Template) -> None:
    """Refuse what could run for ever; raises TemplateTextError."""
    if next(tree.find_all(_FORBIDDEN), None) is not None:
        raise TemplateTextError("macros, includes and imports are not available here")
    if _loop_depth(list(tree.iter_child_nodes())) > MAX_LOOP_DEPTH:
        raise TemplateTextError(f"loops are nested more than {MAX_LOOP_DEPTH} deep")


def _loop_depth(children: Sequence[nodes.Node]) -> int:
    """How many loops stand inside each other; a recursive one counts as too many."""
    deepest = 0
    for node in children:
        own = 0
        if isinstance(node, nodes.For):
            own = MAX_LOOP_DEPTH + 1 if node.recursive else 1
        deepest = max(deepest, own + _loop_depth(list(node.iter_child_nodes())))
    return deepest


def _explain(error: BaseException) -> str:
    """One line for people. Loops between variables come through Jinja2 as they were raised."""
    if isinstance(error, RecursionError | MemoryError):
        return "the template is too deep or too large"
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return f"template error: {shortened(message) if len(message) > 300 else message}"
