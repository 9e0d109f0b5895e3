"""Running a chat template that nobody vouches for: a Jinja sandbox that also bounds time, memory and depth.

Jinja's sandbox keeps a template from files and from Python's internals, but not from `'a' * 10**9`, endless recursion or a
list that holds itself twice forty times over. Here every loop pass, call, filter and operator pays into a budget. The
loops and literals are found in the syntax tree (`Metered`), the rest through Jinja's own hooks. Otherwise the environment
is the one `transformers` renders with.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, _PassArg
from jinja2.visitor import NodeTransformer
from markupsafe import soft_str

from steelyard.model.template_budget import MOST_BITS, MOST_ITEMS, MOST_WIDTH, Budget, LimitError, current

FILTER_NAMES = """abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape format
    groupby indent int items join last length list lower map max min reject rejectattr replace reverse round safe select
    selectattr slice sort string sum title tojson trim truncate unique upper urlencode"""
"""Jinja's filters without random, pprint, striptags, urlize, wordcount, wordwrap and xmlattr: not repeatable, or no bound on their time."""
TEXT_METHODS = """capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii isdecimal
    isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix
    replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill"""
CONTAINER_METHODS = "copy count get index items keys values"
ALLOWED_METHODS = {str: frozenset(TEXT_METHODS.split()), object: frozenset(CONTAINER_METHODS.split())}


class RefusalError(jinja2.TemplateError):
    """The template itself called `raise_exception`."""


class Metered(NodeTransformer):
    """Puts the budget into the syntax tree: a payment in every loop pass and macro, a measurement around every literal."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(self._pay(node.test.lineno, 0), node.test, lineno=node.test.lineno)
        node.body.insert(0, nodes.ExprStmt(self._pay(node.lineno, _fixed_text(node.body)), lineno=node.lineno))
        return node

    def visit_Macro(self, node: Any) -> Any:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._pay(node.lineno, _fixed_text(node.body)), lineno=node.lineno))
        return node

    visit_CallBlock = visit_Macro

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return self._filter(nodes.Tuple(node.nodes, "load", lineno=node.lineno), "(joined)", node.lineno)

    def visit_List(self, node: Any) -> nodes.Filter:
        self.generic_visit(node)
        return self._filter(node, "(held)", node.lineno)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return node if node.ctx != "load" else self._filter(node, "(held)", node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return self._filter(node, "(held)", node.lineno) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        others = [operand for operand in node.ops if not isinstance(operand.expr, nodes.Const)]
        for operand in others:
            operand.expr = self._filter(operand.expr, "(weighed)", node.lineno)
        if others:  # comparing with a constant ends at the first difference, so it costs nothing
            node.expr = self._filter(node.expr, "(weighed)", node.lineno)
        return node

    def _refuse(self, node: Any) -> Any:
        raise jinja2.TemplateSyntaxError("a chat template may not reach for other files", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = _refuse

    def _pay(self, line: int, characters: int) -> nodes.Filter:
        return self._filter(nodes.Const(characters, lineno=line), "(paid)", line)

    @staticmethod
    def _filter(node: nodes.Expr, name: str, line: int) -> nodes.Filter:
        return nodes.Filter(node, name, [], [], None, None, lineno=line)  # a name that no template can write


def _fixed_text(body: Sequence[nodes.Node]) -> int:
    """Characters of template text that one pass through a body can write by itself."""
    return sum(len(data.data) for node in body for data in node.find_all(nodes.TemplateData))


def _paid(characters: int) -> bool:
    budget = current.get()
    budget.spend()
    budget.make(characters)
    return True


def _held(value: Any) -> Any:
    return current.get().hold(value)


def _weighed(value: Any) -> Any:
    """Pays for reading a value through, which a comparison may do."""
    budget = current.get()
    budget.spend(1 + budget.measure(value)[0] // 256)
    return value


def _joined(parts: tuple[Any, ...]) -> str:
    budget = current.get()
    budget.spend()
    budget.fits(sum(budget.written(part) for part in parts if isinstance(part, (str, list, tuple, dict))))
    return budget.hold("".join([str(part) for part in parts]))


def _width(value: Any) -> None:
    if isinstance(value, int) and abs(value) > MOST_WIDTH or isinstance(value, str) and len(value) > MOST_WIDTH:
        raise LimitError(f"it asks for padding of more than {MOST_WIDTH} characters")


def _replace(text: str, old: Any = "", new: Any = "", count: Any = -1) -> None:
    old, new = str(old), str(new)
    found = text.count(old)
    found = min(found, count) if isinstance(count, int) and count >= 0 else found
    current.get().fits(len(text) + found * max(0, len(new) - len(old)))


def _percent(form: str, arguments: Any) -> None:
    """`%` formatting: widths in figures, and small ones."""
    for match in re.finditer(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?", form):
        if any(part == "*" or len(part or "") > 4 for part in match.groups()):
            raise LimitError(f"it asks for padding of more than {MOST_WIDTH} characters")
    budget = current.get()
    budget.fits(len(form) + form.count("%") * (budget.written(arguments) + MOST_WIDTH // 10))


def _join_total(budget: Budget, items: Sequence[Any], separator: Any) -> None:
    budget.fits(sum(map(budget.written, items)) + len(str(separator)) * len(items))


def _before_method(method: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[Any, ...]:
    """Refuses a string method whose result would not fit; gives the arguments to call it with."""
    text, name = method.__self__, method.__name__
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        for argument in (*arguments, *keywords.values()):
            _width(argument)
        if name == "expandtabs":
            current.get().fits(len(text) + text.count("\t") * max([8, *(a for a in arguments if isinstance(a, int))]))
    elif name == "replace":
        _replace(text, *arguments, **keywords)
    elif name == "join" and len(arguments) == 1:
        items = list(arguments[0])
        _join_total(current.get(), items, text)
        return (items,)
    return arguments


def _before_filter(name: str, value: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """Refuses a filter whose result would not fit; gives the value to call it with."""
    budget = current.get()
    budget.spend(1 + (len(value) // 64 if isinstance(value, (str, list, tuple, dict)) else 0))
    match name:
        case "center" | "batch" | "slice" | "round" | "truncate":
            for argument in (*arguments, *keywords.values()):
                _width(argument)
        case "indent":
            width = keywords.get("width", arguments[0] if arguments else 4)
            _width(width)
            each = len(width) if isinstance(width, str) else abs(int(width))
            budget.fits(len(str(value)) + each * (str(value).count("\n") + 1))
        case "replace":
            _replace(str(soft_str(value)), *arguments, **keywords)
        case "format":
            _percent(str(soft_str(value)), keywords or arguments)
        case "list" if isinstance(value, str) and len(value) > MOST_ITEMS:
            raise LimitError(f"it makes a list of {len(value)} items; at most {MOST_ITEMS} are allowed")
        case "join":
            value = value if isinstance(value, str) else list(value)
            _join_total(budget, value, keywords.get("d", arguments[0] if arguments else ""))
        case "string" | "upper" | "lower" | "title" | "capitalize" | "trim" | "e" | "escape" | "forceescape" | "urlencode":
            budget.fits(budget.written(value))
    return value


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays. What it gives lazily is computed at once and handed on as an iterator, so none can be nested in another."""
    place = 0 if _PassArg.from_obj(function) is None else 1

    @functools.wraps(function)
    def guarded(*arguments: Any, **keywords: Any) -> Any:
        head, rest = arguments[: place + 1], arguments[place + 1 :]
        value = _before_filter(name, head[place], rest, keywords)
        result = function(*head[:place], value, *rest, **keywords)
        if isinstance(result, Iterator):
            return iter(current.get().hold(list(result)))
        return current.get().hold(result)

    return guarded


def _guarded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*arguments: Any, **keywords: Any) -> Any:
        current.get().spend()
        return function(*arguments, **keywords)

    for name in ("jinja_pass_arg",):
        if hasattr(function, name):
            setattr(guarded, name, getattr(function, name))
    return guarded


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """As `transformers` has it: unlike Jinja's own, without escapes for HTML."""
    budget = current.get()
    size, depth = budget.measure(value)
    _width(indent)
    each = 0 if indent is None else len(indent) if isinstance(indent, str) else abs(int(indent))
    for separator in separators or ():
        each += len(separator)
    budget.fits(size * (1 + each * (depth + 1)))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@jinja2.pass_environment
def _sum(environment: Any, values: Any, attribute: Any = None, start: Any = 0) -> Any:
    """Adds up with the metered `+`: Jinja's own would add lists without bound."""
    if attribute is not None:
        values = environment.call_filter("map", values, kwargs={"attribute": attribute}, context=None)
    total = start
    for value in values:
        total = environment.call_binop(None, "+", total, value)
    return total


class _Formatter(SandboxedFormatter):
    """`str.format` with small widths, written in figures."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if re.search(r"\d{5}", format_spec):
            raise LimitError(f"it asks for padding of more than {MOST_WIDTH} characters")
        budget = current.get()
        budget.spend()
        budget.fits(budget.written(value))
        return budget.hold(super().format_field(value, format_spec))


class _Namespace(Namespace):
    """Variables a template may change; no dunder names, and nothing to print, so it cannot hide a large container."""

    def __init__(*arguments: Any, **keywords: Any) -> None:  # `self` stays free as a keyword
        self = arguments[0]
        values = dict(*arguments[1:], **keywords)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace may not hold {name!r:.40}: names may not begin with an underscore")


class _Dict:
    """`dict(...)` without the type's own attributes."""

    def __call__(self, *arguments: Any, **keywords: Any) -> dict[Any, Any]:
        return dict(*arguments, **keywords)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says; here it only writes it. As in `transformers`, assignments stay inside."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("written"), [], [], body, lineno=line)  # type: ignore[call-arg]

    def written(self, caller: Callable[[], str]) -> str:
        return caller()


def _raise_exception(message: Any) -> None:
    raise RefusalError(str(message)[:2000])


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The environment `transformers` renders chat templates in, with a budget."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], optimized=False, finalize=_written_out
        )
        own = {"tojson": _to_json, "sum": _sum}
        self.filters = {name: _guarded(name, own.get(name, self.filters[name])) for name in FILTER_NAMES.split()}
        self.filters |= {"(paid)": _paid, "(held)": _held, "(weighed)": _weighed, "(joined)": _joined}
        self.tests = {name: _guarded_test(test) for name, test in self.tests.items()}
        self.globals.pop("lipsum")
        self.globals |= {"namespace": _Namespace, "dict": _Dict(), "raise_exception": _raise_exception}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return Metered().visit(super()._parse(source, name, filename))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in ALLOWED_METHODS[str]
        if isinstance(obj, (dict, list, tuple)):
            return attr in ALLOWED_METHODS[object]
        if isinstance(obj, (int, float, bytes)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current.get()
        budget.spend()
        if isinstance(getattr(__obj, "__self__", None), str):
            args = _before_method(__obj, args, kwargs)
        return budget.hold(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`text.format`, found where it is looked up, so that it is guarded however it is called."""
        if not callable(value) or getattr(value, "__name__", "") not in ("format", "format_map"):
            return None
        text = getattr(value, "__self__", None)
        if not isinstance(text, str):
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                (kwargs,), args = args, ()
            if any(spec and "{" in spec for _, _, spec, _ in string.Formatter().parse(text)):
                raise LimitError("it computes the format of a format")
            return type(text)(_Formatter(self).vformat(text, args, kwargs))

        return formatted

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = current.get()
        budget.spend()
        if operator == "%" and isinstance(left, str):
            _percent(left, right)
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            budget.fits(len(left) + len(right))
        elif operator == "*":
            _check_product(budget, left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MOST_BITS:
            raise LimitError(f"it makes a number of more than {MOST_BITS} bits")
        return budget.hold(super().call_binop(context, operator, left, right))


def _check_product(budget: Budget, left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if not isinstance(times, int):
            continue
        if isinstance(many, str):
            budget.fits(len(many) * max(times, 0))
        elif isinstance(many, (list, tuple)) and len(many) * max(times, 0) > MOST_ITEMS:
            raise LimitError(f"it makes a list of more than {MOST_ITEMS} items")


def _written_out(value: Any) -> Any:
    """Pays for what `{{ ... }}` writes."""
    budget = current.get()
    budget.spend()
    if isinstance(value, str):
        return budget.hold(value)
    if isinstance(value, (list, tuple, dict)):
        budget.fits(budget.written(value))
        return budget.hold(str(value))
    return value


@functools.cache
def environment() -> TemplateEnvironment:
    """The one environment all templates share; it holds no state of a rendering."""
    return TemplateEnvironment()


def clock(now: Callable[[], datetime.datetime]) -> Callable[[str], str]:
    """`strftime_now` for a template."""

    def strftime_now(form: str) -> str:
        if len(form) > 200:
            raise LimitError("it asks for a date in a format of more than 200 characters")
        return now().strftime(form)

    return strftime_now
