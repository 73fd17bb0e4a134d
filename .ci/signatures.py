"""What a page shows of a function or class: its signature, its parameters as a table, its docstring

All of it is read from the source. An object that runs has lost its words: a default is a value of
the machine that builds the site, a named tuple has `*args`, a type is spelt out."""

import ast
import dataclasses
import functools
import inspect
import re
import sys
import tokenize
from typing import Literal, NamedTuple, get_args, get_origin

WIDTH = 92  # letters in a line of a signature
LONGEST = 40  # letters of a default that is shown


class Parameter(NamedTuple):
    name: str
    stars: str  # '', '*' or '**'
    type: ast.expr | None
    default: str | None  # as it is written
    words: str  # the comment beside it


@functools.cache
def parsed(path: str):
    with open(path, encoding='utf-8') as file:
        return ast.parse(file.read())


@functools.cache
def comments(path: str) -> dict:  # line: (text, whether nothing else is on the line)
    with tokenize.open(path) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    found = [token for token in tokens if token.type == tokenize.COMMENT]
    return {t.start[0]: (t.string.lstrip('# '), not t.line[: t.start[1]].strip()) for t in found}


def definition(name: str, path: str):  # 'function', 'Class' or 'Class.method'
    "Its node in the syntax tree of the file"
    scope = parsed(path)
    for part in name.split('.'):
        scope = next(node for node in ast.walk(scope) if getattr(node, 'name', None) == part)
    return scope


def words_at(node, path: str) -> str:
    "The comment at the end of the node's line, and those that have the lines above for themselves"
    found = comments(path)
    words, alone = found.get(node.end_lineno, ('', False))
    above, line = [], node.lineno - 1
    while found.get(line, ('', False))[1]:
        above.insert(0, found[line][0])
        line -= 1
    return ' '.join([*above, '' if alone else words]).strip()


def written(default) -> str | None:
    "A default as the source has it; of a dataclass's field, what it makes"
    if isinstance(default, ast.Call) and getattr(default.func, 'id', None) == 'field':
        options = {option.arg: option.value for option in default.keywords}
        made = options.get('default_factory')
        if made is None:
            return written(options.get('default'))
        return ast.unparse(made.body) if isinstance(made, ast.Lambda) else f'{ast.unparse(made)}()'
    return None if default is None else ast.unparse(default)


def of_function(node, path: str, method: bool) -> list:
    "Its parameters, without a method's first"
    given = node.args
    places = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(places) - len(given.defaults)) + given.defaults
    rows = [(arg, '', default) for arg, default in zip(places, defaults)]
    static = any(getattr(mark, 'id', None) == 'staticmethod' for mark in node.decorator_list)
    rows = rows[1:] if method and not static else rows
    rows += [(given.vararg, '*', None)] if given.vararg else []
    rows += [(arg, '', value) for arg, value in zip(given.kwonlyargs, given.kw_defaults)]
    rows += [(given.kwarg, '**', None)] if given.kwarg else []
    return [
        Parameter(arg.arg, stars, arg.annotation, written(value), words_at(arg, path))
        for arg, stars, value in rows
    ]


def of_class(found) -> list:
    "The fields of a dataclass or named tuple, or what `__init__` is given, here or in a base"
    own = [base for base in found.__mro__ if base.__module__.startswith('idkl_nb.')]
    files = [sys.modules[base.__module__].__file__ for base in own]
    nodes = [definition(base.__qualname__, file) for base, file in zip(own, files)]
    names = getattr(found, '_fields', ())
    if dataclasses.is_dataclass(found):
        names = [field.name for field in dataclasses.fields(found) if field.init]
    if names:
        fields = {}
        for node, path in reversed(list(zip(nodes, files))):
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and part.target.id in names:
                    parts = (part.annotation, written(part.value), words_at(part, path))
                    fields[part.target.id] = Parameter(part.target.id, '', *parts)
        return list(fields.values())
    for node, path in zip(nodes, files):
        for part in node.body:
            if getattr(part, 'name', None) == '__init__':
                return of_function(part, path, method=True)
    return []


def short(default: str) -> str:
    return default if len(default) <= LONGEST else '...'


def call(opening: str, rows: list, ending: str) -> str:
    "The signature, in one line or filled lines"
    parts = [
        f'{row.stars}{row.name}' + ('' if row.default is None else f'={short(row.default)}')
        for row in rows
    ]
    line = f'{opening}({", ".join(parts)}){ending}'
    if len(line) <= WIDTH:
        return line
    lines = ['   ']
    for part in parts:
        if len(f'{lines[-1]} {part},') > WIDTH:
            lines.append('   ')
        lines[-1] += f' {part},'
    return '\n'.join([f'{opening}(', *lines, f'){ending}'])


def code(text: str, linked: bool = True) -> str:
    """In the typeface of code

    In backticks a name of the package becomes a link, and a bar would end the cell of a table."""
    if linked and '|' not in text:
        return f'`{text}`'
    for letter, word in (('&', '&amp;'), ('<', '&lt;'), ('|', '&#124;'), ('*', '&#42;')):
        text = text.replace(letter, word)
    return f'<code>{text}</code>'


def source_of(node) -> str:
    "As written; a type in quotes without them, and shapes without jaxtyping's leading space"
    text = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
    return re.sub(r"(\[[\w.]+, ')\s+", r'\1', str(text))


def type_words(node, module) -> str:
    "A type in words: one of several is `this` or `that`"
    if isinstance(node, ast.BinOp):
        return f'{type_words(node.left, module)} or {type_words(node.right, module)}'
    if isinstance(node, ast.Subscript):
        name = getattr(node.value, 'id', getattr(node.value, 'attr', None))
        inside = getattr(node.slice, 'elts', [node.slice])
        if name == 'Annotated':
            return type_words(inside[0], module)
        if name == 'Literal':
            return ' or '.join(code(ast.unparse(value)) for value in inside)
    named = getattr(module, node.id, None) if isinstance(node, ast.Name) else None
    if get_origin(named) is Literal:
        return ' or '.join(code(repr(value)) for value in get_args(named))
    return code(source_of(node))


def plain(words: str) -> str:
    "A comment as Markdown that shows it as it is; options and what is in backticks are code"
    parts = re.split(r'(`[^`]*`|--[a-z][\w-]*)', words)
    parts[::2] = [re.sub(r'([\\*_<>{}\[\]$~^#|@\'"])', r'\\\1', part) for part in parts[::2]]
    parts[1::2] = [code(part.strip('`')) for part in parts[1::2]]
    return ''.join(parts)


def table(rows: list, module) -> str:
    "Name, type and meaning of each parameter; a column without an entry is left out"
    cells = [
        (
            code(row.stars + row.name, linked=False) if row.name != 'returns' else '*returns*',
            type_words(row.type, module) if row.type else '',
            plain(row.words),
        )
        for row in rows
    ]
    kept = [n for n in range(3) if any(row[n] for row in cells)]
    if kept in ([], [0]):
        return ''
    head = [('parameter', 'type', 'meaning')[n] for n in kept]
    lines = [head, ['---'] * len(kept), *([row[n] for n in kept] for row in cells)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def described(name: str, module) -> str:
    "Markdown with signature, table and docstring"
    found, path = module, module.__file__
    for part in name.split('.'):
        found = inspect.getattr_static(found, part)
    node = definition(name, path)
    short_name = name.rpartition('.')[2]
    marks = {ast.unparse(mark) for mark in node.decorator_list}

    if isinstance(node, ast.ClassDef):
        rows = of_class(found)
        bases = ', '.join(map(ast.unparse, node.bases))
        opening, ending = f'class {name}', f'  # {bases}' if bases else ''
    else:
        rows = of_function(node, path, method='.' in name)
        opening = f'def {short_name}'
        ending = f' -> {source_of(node.returns)}' if node.returns else ''
    text = call(opening, rows, ending)
    if marks & {'property', 'cached_property', 'functools.cached_property'}:
        text = f'{short_name}{ending}'
    if isinstance(node, ast.ClassDef) and not rows:
        text = f'class {name}({bases})' if bases else f'class {name}'
    if getattr(node, 'returns', None) and words_at(node.returns, path):
        after = words_at(node.returns, path)
        rows = [*rows, Parameter('returns', '', node.returns, None, after)]

    summary, _, rest = (ast.get_docstring(node) or '').partition('\n')
    parts = [f'```python\n{text}\n```', f'*{summary}*' if summary else '', rest.strip()]
    return '\n\n'.join(part for part in [*parts, table(rows, module)] if part)
