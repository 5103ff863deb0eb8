"""Every message that a user can meet, read from the sources of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "lampq_onnx"

ERRORS = {"LampqError": "error", "UsageError": "usage", "GateError": "gate"}
"""Classes of errors and the kind of their messages; classes made from them have the same."""

KINDS = ("error", "usage", "gate", "value", "warning")
"""In the order of the list: exit code 1, exit code 2, missed gates, why a value was not taken, warnings."""

HOLE = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Message:
    """One message that a user can meet.

    Attributes:
        kind: one of KINDS.
        text: with {names} in the place of what is filled in.
        hint: what the message says about what to do; empty: nothing.
        always: the message says it in every case.
    """

    kind: str
    text: str
    hint: str = ""
    always: bool = True

    @property
    def constant(self) -> str:
        """The text without what is filled in, for sorting and comparing."""
        return " ".join(HOLE.sub(" ", self.text).split())


@dataclass
class Module:
    """A source file and what its messages refer to.

    Attributes:
        constants: texts by the names that this module or another one gives them.
        nodes: of the file's tree, outer ones first.
        inside: node -> the function that it stands in.
        followed: functions and names whose texts are being looked for: one that is made from itself ends there.
    """

    constants: dict[str, str]
    nodes: list[ast.AST]
    inside: dict[ast.AST, ast.FunctionDef] = field(default_factory=dict)
    followed: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for function in self.nodes:
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    self.inside[node] = function  # inner functions come later and win

    def texts(self, node: ast.expr | None) -> list[str]:
        """What an expression can say: several texts where it depends on a condition or on a caller."""
        if node is None:
            return [""]
        if isinstance(node, ast.IfExp):
            return [*self.texts(node.body), *self.texts(node.orelse)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [left + right for left in self.texts(node.left) for right in self.texts(node.right)]
        if isinstance(node, ast.JoinedStr):
            return ["".join(map(self.part, node.values))]
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        if isinstance(node, ast.Name):
            return self._named(node)
        if isinstance(node, ast.Call) and _called(node) == "join" and isinstance(node.args[0], ast.GeneratorExp):
            return self.texts(node.args[0].elt)  # one of several
        return [f"{{{_shown(node)}}}"]

    def part(self, node: ast.expr) -> str:
        """What stands for a part of a text: itself, or a name in braces."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        value = node.value if isinstance(node, ast.FormattedValue) else node
        if isinstance(value, ast.IfExp):
            choices = [text for text in self.texts(value) if text]
            if all(not HOLE.search(text) for text in choices):
                return f"{{{' / '.join(choices)}}}"
        if isinstance(value, ast.Name) and value.id in self.constants:
            return self.constants[value.id]
        return f"{{{_shown(value)}}}"

    def _named(self, node: ast.Name) -> list[str]:
        function = self.inside.get(node)
        if node.id in self.constants:
            return [self.constants[node.id]]
        if function is None or (function.name, node.id) in self.followed:
            return [f"{{{node.id}}}"]
        self.followed.append((function.name, node.id))
        found = list(dict.fromkeys(self._said_for(function, node.id)))
        self.followed.pop()
        return found or [f"{{{node.id}}}"]

    def _said_for(self, function: ast.FunctionDef, name: str) -> Iterator[str]:
        """Texts that a name has in a function: those of its callers, or those that it assigns."""
        names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
        given = self._from_callers(function, names, name) if name in names else _assigned(function, name)
        for value in given:
            yield from self.texts(value)

    def _from_callers(self, function: ast.FunctionDef, names: list[str], name: str) -> Iterator[ast.expr]:
        """Texts that calls in this module give for an argument."""
        place = names.index(name)
        own = function.args
        last = own.args[len(own.args) - len(own.defaults) :]
        defaults = [*zip(last, own.defaults, strict=True), *zip(own.kwonlyargs, own.kw_defaults, strict=True)]
        yield from (value for argument, value in defaults if argument.arg == name and value is not None)
        for call in self.nodes:
            if isinstance(call, ast.Call) and _called(call) == function.name and self.inside.get(call) is not function:
                by_name = next((k.value for k in call.keywords if k.arg == name), None)
                given = by_name or (call.args[place] if place < len(call.args) else None)
                if given is not None:
                    yield given


def messages(package: Path = PACKAGE) -> list[Message]:
    """All messages of a package, in the order of the page."""
    trees = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(package.rglob("*.py"))
    }
    nodes = {name: list(ast.walk(tree)) for name, tree in trees.items()}
    kinds = _error_classes(nodes.values())
    own = {name: _constants(tree) for name, tree in trees.items()}
    passed_on = {name: {**_imported(nodes[name], own), **own[name]} for name in trees}
    found = {
        message
        for name in trees
        for message in _messages(Module({**_imported(nodes[name], passed_on), **own[name]}, nodes[name]), kinds)
    }
    return sorted(found, key=lambda m: (KINDS.index(m.kind), m.constant.lower(), m.text, m.hint))


def other_texts(package: Path = PACKAGE) -> set[str]:
    """Every text in the sources, for what users read elsewhere than in errors: notes of reports, findings of doctor."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))]
    return {
        text
        for module in (Module(_constants(tree), list(ast.walk(tree))) for tree in trees)
        for node in module.nodes
        if isinstance(node, ast.JoinedStr | ast.Constant)
        for text in module.texts(node)
        if " " in text
    }


def _messages(module: Module, kinds: dict[str, str]) -> Iterator[Message]:
    for node in module.nodes:
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = _called(node)
        if name in kinds:
            hint = next((k.value for k in node.keywords if k.arg == "hint"), None)
            said = module.texts(hint)
            hints = " / ".join(dict.fromkeys(filter(None, said)))
            for text in module.texts(node.args[0]):
                yield Message(kinds[name], text, hints, all(said) or not hints)
        elif name == "ValueError":
            for text in module.texts(node.args[0]):
                yield Message("value", text)
        elif name == "_fail" and len(node.args) == 3:
            for text in module.texts(node.args[0]):
                if text and text != "{message}":
                    yield Message("error", text, module.texts(node.args[1])[0])
        elif name == "warning" and isinstance(node.args[0], ast.Constant):
            parts = re.split("%[sd]", str(node.args[0].value))
            fills = [module.part(value) for value in node.args[1:]]
            yield Message("warning", "".join(part + fill for part, fill in zip(parts, [*fills, ""], strict=True)))


def _error_classes(modules: Iterable[list[ast.AST]]) -> dict[str, str]:
    """ERRORS, and the classes that are made from them."""
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for nodes in modules
        for node in nodes
        if isinstance(node, ast.ClassDef)
    }
    kinds = dict(ERRORS)
    while True:
        more = {name: kinds[base] for name, own in bases.items() for base in own if base in kinds and name not in kinds}
        if not more:
            return kinds
        kinds |= more


def _called(call: ast.Call) -> str:
    function = call.func
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def _assigned(function: ast.FunctionDef, name: str) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            yield from (value for target, value in _pairs(node) if isinstance(target, ast.Name) and target.id == name)


def _pairs(node: ast.Assign) -> list[tuple[ast.expr, ast.expr]]:
    """What is assigned to what; ``a, b = 1, 2`` is two."""
    target = node.targets[0]
    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        return list(zip(target.elts, node.value.elts, strict=True))
    return [(target, node.value)]


def _constants(tree: ast.Module) -> dict[str, str]:
    """Texts and numbers that a module's upper-case names stand for."""
    found = {}
    for node in tree.body:
        for name, value in _pairs(node) if isinstance(node, ast.Assign) else ():
            if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str | int):
                found[name.id] = str(value.value)
    return found


def _imported(nodes: list[ast.AST], constants: dict[str, dict[str, str]]) -> dict[str, str]:
    """Constants that a module imports from others, which are given by the names of those."""
    return {
        alias.asname or alias.name: constants[node.module][alias.name]
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module in constants
        for alias in node.names
        if alias.name in constants[node.module]
    }


UNSAID = "..."
"""Stands for what has no name in the code."""


def _shown(node: ast.expr) -> str:
    """A short name for what is filled in."""
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_")
    names = (name for name in map(_shown, _inner(node)) if name not in (UNSAID, "str", "repr"))
    return next(names, UNSAID)


def _inner(node: ast.expr) -> list[ast.expr]:
    """Parts of an expression that may give it a name, the best first."""
    match node:
        case ast.Call():
            return [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [node.func])]
        case ast.Subscript() | ast.FormattedValue() | ast.Starred():
            return [node.value]
        case ast.IfExp():
            return [node.body, node.orelse]
        case ast.BoolOp():
            return node.values
        case ast.BinOp():
            return [node.left, node.right]
        case ast.GeneratorExp() | ast.ListComp():
            return [generator.iter for generator in node.generators]
        case ast.List() | ast.Tuple():
            return node.elts
        case _:
            return []
