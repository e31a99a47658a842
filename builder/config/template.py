"""Renders the texts of a diskimage as Jinja2 templates over its platform.

The sandbox is strict: an undefined name is an error. It has no randomness, no macros and no way to
run or grow without end, since a daemon renders again at every change of the file. There are no template
comments: "{#" is ordinary shell, as in "${#list[@]}", and YAML has comments of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final

from jinja2 import StrictUndefined, Template, TemplateError, nodes, pass_context, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from builder.config import budget
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
#: What an expression's value is called inside its template.
_RESULT: Final = "value_of_the_expression"
#: Templates kept compiled: many platforms have the same.
_REMEMBERED: Final = 4_096
#: What template code may raise by itself, besides TemplateError: it is ordinary Python underneath.
_FAILURES = (
    TemplateError,
    budget.OverBudgetError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
_FORBIDDEN: Final[Mapping[type[nodes.Node], str]] = {
    **dict.fromkeys((nodes.Macro, nodes.CallBlock), "macros, includes and imports"),
    **dict.fromkeys((nodes.Include, nodes.Import, nodes.FromImport), "macros, includes and imports"),
    nodes.Extends: "macros, includes and imports",
    # What they hold is made as a whole, however much it is, before anybody can look at it.
    **dict.fromkeys((nodes.AssignBlock, nodes.FilterBlock), "blocks that become a value"),
}
#: Filters whose work is bounded by what they are given, and that give the same every time.
FILTERS: Final = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join"),
    *("last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse"),
    *("select", "selectattr", "sort", "string", "sum", "title", "trim", "unique", "upper", "urlencode"),
)
#: Methods of text that make as much of it as they are told to.
_UNBOUNDED_METHODS = frozenset(
    {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"}
)
#: Filters that no template can name: what loops and "~" are made to go through.
_STEPS, _JOINED = "steps of a loop", "texts put together"


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

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            for side in (left, right):
                if isinstance(side, str | list | tuple):
                    budget.charge(len(side))
            return super().call_binop(context, operator, left, right)
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
        if isinstance(obj, str) and attribute == "join":
            return lambda texts: budget.joined(texts, obj)
        if isinstance(obj, str) and attribute == "replace":
            return partial(budget.replaced, obj)
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
    environment.filters = {name: budget.charged(environment.filters[name]) for name in FILTERS}
    environment.filters |= {"join": _join, "replace": budget.replaced}
    environment.filters |= {_STEPS: pass_context(_steps), _JOINED: budget.joined}
    return environment


@pass_environment
def _join(environment: Any, items: Any, between: str = "", attribute: str | int | None = None) -> str:
    texts = items if attribute is None else map(make_attrgetter(environment, attribute), items)
    return budget.joined(texts, str(between))


def _steps(_context: Any, items: Any) -> Iterator[Any]:
    """Taken by each loop when it runs, and never while it is compiled, which is done once."""
    return budget.steps(items)


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
    """The text with its template rendered over `names`.

    Raises TemplateTextError, and AbandonedError when it did so for an earlier text because templates made
    too much in all.
    """
    if not is_template(text):
        return text
    budget.check()
    try:
        return "".join(_bounded(_compiled(text).generate(names)))
    except _FAILURES as error:
        raise TemplateTextError(_explain(error)) from error


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of a text, as long as it stays short enough."""
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_LENGTH:
            raise TemplateTextError(f"renders to more than {MAX_LENGTH} characters")
        budget.charge(len(piece))
        yield piece


def render_items(text: str, names: Mapping[str, Any]) -> list[str] | None:
    """The texts of a list, where the text is a single expression that gives one; None where it isn't.

    Raises like `render`.
    """
    if not is_template(text):
        return None
    budget.check()
    try:
        expression = _expression(text.strip())
        value = None if expression is None else _value(expression, names)
        items = list(value) if isinstance(value, list | tuple | Iterator) else None
    except _FAILURES as error:
        raise TemplateTextError(_explain(error)) from error
    if items is None:
        return None
    if len(items) > MAX_RANGE:
        raise TemplateTextError(f"gives a list of more than {MAX_RANGE} texts")
    for item in items:
        if not isinstance(item, str):
            raise TemplateTextError(
                f"gives a list that has a {type(item).__name__} in it, where text belongs"
            )
    _charge(items)
    return items


def _charge(items: list[str]) -> None:
    try:
        budget.charge(sum(map(len, items)))
    except budget.OverBudgetError as error:
        raise TemplateTextError(_explain(error)) from error


def names_for(platform: Platform | None, image: str | None = None) -> Mapping[str, Any]:
    """What templates of a diskimage can name: `platform` when it has one, `diskimage` once it has a name."""
    names: dict[str, Any] = {}
    if platform is not None:
        names["platform"] = _names_of(platform)
    if image is not None:
        names["diskimage"] = _plain_names(f"diskimage {image!r}", {"name": image})
    return names


class PlatformResolver:
    """Renders what is said of a platform over the rest of it, and notices what ends up asking for itself.

    `title` is what messages call the platform; `plain` are values no template is in, by name, and
    `templates` those that have them, at any depth.
    """

    def __init__(self, title: str, plain: Mapping[str, str], templates: Mapping[str, Any]) -> None:
        self._values = {**templates, **plain}
        self._names = {"platform": _Names(title, self._values, self.resolve)}
        self._done: dict[str, Any] = dict(plain)
        self._failed: dict[str, TemplateTextError] = {}
        self._open: list[str] = []

    def resolve(self, name: str) -> Any:
        """The rendered value of a key or variable; raises TemplateTextError."""
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
            self._done[name] = self.rendered(self._values[name])
        except TemplateTextError as error:
            self._failed[name] = error  # or every variable of a long chain would walk all of it
            raise
        finally:
            self._open.pop()
        return self._done[name]

    def rendered(self, value: Any) -> Any:
        """The value with all texts in it rendered; raises TemplateTextError."""
        if isinstance(value, str):
            return render(value, self._names)
        if isinstance(value, list):
            return [self.rendered(item) for item in value]
        if isinstance(value, dict):
            return {key: self.rendered(item) for key, item in value.items()}
        return value


def _names_of(platform: Platform) -> _Names:
    fields = {
        "name": platform.name,
        "distribution": platform.distribution,
        "release": platform.release,
        "architecture": platform.architecture,
        "mirror": platform.mirror,
        "security_mirror": platform.security_mirror,
        "updates_mirror": platform.updates_mirror,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return _plain_names(f"platform {platform.name!r}", {**platform.variables, **given})


def _plain_names(title: str, values: Mapping[str, Any]) -> _Names:
    return _Names(title, values, values.__getitem__)


@lru_cache(maxsize=_REMEMBERED)
def _compiled(text: str) -> Template:
    """The template of a text, which many platforms have; raises TemplateTextError."""
    return _ENVIRONMENT.from_string(_parse(text))


@lru_cache(maxsize=_REMEMBERED)
def _expression(text: str) -> Template | None:
    """A template that assigns what the text's only expression gives; None when there is more to the text,
    or less. Raises TemplateTextError."""
    match _parse(text).body:
        case [nodes.Output(nodes=[nodes.Expr() as expression])] if not isinstance(
            expression, nodes.TemplateData
        ):
            assignment = nodes.Assign(nodes.Name(_RESULT, "store"), expression, lineno=1)
            return _ENVIRONMENT.from_string(nodes.Template([assignment], lineno=1))
    return None


def _value(expression: Template, names: Mapping[str, Any]) -> Any:
    context = expression.new_context(dict(names))
    for _text in expression.root_render_func(context):
        pass
    return context.vars[_RESULT]


def _parse(text: str) -> nodes.Template:
    try:
        tree = _ENVIRONMENT.parse(text)
        _check_bounds(tree)
        return _counting(tree)
    except _FAILURES as error:
        raise TemplateTextError(_explain(error)) from error


def _counting(tree: nodes.Template) -> nodes.Template:
    """The same template with its loops, and what it puts together, going through the budget."""
    _Counting().visit(tree)
    return tree


class _Counting(NodeTransformer):
    """Lets loops take their items from a filter, and makes "~" one."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - so Jinja2 looks for it
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _STEPS, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the same
        self.generic_visit(node)
        texts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(texts, _JOINED, [], [], None, None, lineno=node.lineno)


def _check_bounds(tree: nodes.Template) -> None:
    """Refuse what could run for ever; raises TemplateTextError."""
    forbidden = next(tree.find_all(tuple(_FORBIDDEN)), None)
    if forbidden is not None:
        raise TemplateTextError(f"{_FORBIDDEN[type(forbidden)]} are not available here")
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
    if isinstance(error, budget.OverBudgetError):
        return str(error)
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return f"template error: {shortened(message) if len(message) > 300 else message}"
