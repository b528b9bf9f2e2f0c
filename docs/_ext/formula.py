"""Formula of a method in LaTeX, read from its code, so that the page shows the computation that is executed."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

_SUM, _PRODUCT, _POWER, _ATOM = range(4)  # binding strength of a piece of LaTeX, weakest first
_Piece = tuple[str, int]
_COMPARE = {ast.Gt: ">", ast.GtE: r"\ge", ast.Lt: "<", ast.LtE: r"\le", ast.Eq: "=", ast.NotEq: r"\ne"}


def formula(function: Callable[..., Any], symbols: Mapping[str, str]) -> str | None:
    """Return the result of `function` in LaTeX, with `symbols` for its arguments; None if it is more than algebra.

    Supported are + - * / ** of tensors and numbers, comparisons, `abs`, `square`, `sqrt` and `where`. Names assigned
    before the return are substituted. `a if option else b` is shown for the default of the option.
    """
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    arguments = [*tree.args.args, *tree.args.kwonlyargs]
    known: dict[str, _Piece] = {a.arg: (symbols.get(a.arg, _name(a.arg)), _ATOM) for a in arguments}
    defaults = {
        a.arg: ast.literal_eval(value)
        for a, value in zip(tree.args.kwonlyargs, tree.args.kw_defaults, strict=True)
        if value
    }
    try:
        for line in tree.body:
            match line:
                case ast.Expr(value=ast.Constant()):
                    continue
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    known[name] = _latex(value, known)
                case ast.Return(value=ast.expr() as value):
                    if isinstance(value, ast.IfExp) and isinstance(value.test, ast.Name) and value.test.id in defaults:
                        value = value.body if defaults[value.test.id] else value.orelse
                    return _latex(value, known)[0]
                case _:
                    return None
    except LookupError:
        return None
    return None


def _name(text: str) -> str:
    return r"\mathrm{" + text.replace("_", r"\_") + "}"


def _latex(node: ast.expr, known: Mapping[str, _Piece]) -> _Piece:
    """Return LaTeX and its binding strength. Raises LookupError for unknown names and unsupported operations."""

    def within(part: ast.expr, least: int) -> str:
        text, binds = _latex(part, known)
        return text if binds >= least else rf"\left({text}\right)"

    def plain(part: ast.expr) -> str:
        return _latex(part, known)[0]

    match node:
        case ast.Name(id=name):
            return known[name]
        case ast.Constant(value=int() | float() as value):
            return f"{value:g}", _ATOM
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return f"-{within(operand, _PRODUCT)}", _SUM
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{plain(left)} + {plain(right)}", _SUM
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return f"{plain(left)} - {within(right, _PRODUCT)}", _SUM
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return rf"{within(left, _PRODUCT)}\,{within(right, _PRODUCT)}", _PRODUCT
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return rf"\frac{{{plain(left)}}}{{{plain(right)}}}", _PRODUCT
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return f"{within(left, _ATOM)}^{{{plain(right)}}}", _POWER
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            return f"{plain(left)} {_COMPARE[type(operator)]} {plain(right)}", _SUM
        case ast.Call(func=ast.Attribute(value=value, attr="abs"), args=[]):
            return rf"\left|{plain(value)}\right|", _ATOM
        case ast.Call(func=ast.Attribute(value=value, attr="square"), args=[]):
            return f"{within(value, _ATOM)}^2", _POWER
        case ast.Call(func=ast.Attribute(value=value, attr="sqrt"), args=[]):
            return rf"\sqrt{{{plain(value)}}}", _ATOM
        case ast.Call(func=ast.Attribute(value=value, attr="where"), args=[condition, other]):
            cases = rf"{plain(value)} & {plain(condition)} \\ {plain(other)} & \text{{else}}"
            return rf"\begin{{cases}} {cases} \end{{cases}}", _ATOM
        case _:
            raise LookupError(ast.unparse(node))
