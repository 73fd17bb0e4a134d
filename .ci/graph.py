"""The graph of modules: floors in CONTRIBUTING.md, no circle, the method apart from the workshop

`python .ci/graph.py` writes the table between `<!-- graph -->` and `<!-- end -->`; `--check` only
compares. A module stands one floor above the highest of those that it imports."""

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

root = Path(__file__).resolve().parents[1]
METHOD = {
    'backbone',
    'modality',
    'identity',
    'normalisation',
    'purifier',
    'tgsa',
    'csa',
    'mdr',
    'model',
    'assembly',
}
BELOW = ('common', 'fast')  # what the method may stand on, beside itself; `fast_scores`, too


def _own(node: ast.ImportFrom):
    "The module of the package that is imported here, or None; wrapped imports have its full name"
    if node.level == 1:
        return node.module
    package, _, module = node.module.partition('.')
    return module if package == 'idkl_nb' and module else None


def imports(project=root) -> dict:
    "Module -> those of the package that it imports, inside functions too"
    graph = {}
    for path in sorted((project / 'idkl_nb').glob('[a-z]*.py')):
        nodes = ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        modules = [_own(node) for node in nodes if isinstance(node, ast.ImportFrom)]
        graph[path.stem] = set(modules) - {None}
    return graph


def faults(graph: dict) -> list:
    "Sentences: a circle, or a module of the method that leans on the workshop"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f'a circle: {" imports ".join(reversed(error.args[1]))}']
    return [
        f'{module} belongs to the method and imports {name} of the workshop'
        for module in sorted(METHOD & set(graph))
        for name in sorted(graph[module] - METHOD)
        if not name.startswith(BELOW)
    ]


def floors(graph: dict) -> dict:
    "Module -> its floor, from 0"
    found = {}
    for module in TopologicalSorter(graph).static_order():
        found[module] = max((found[name] + 1 for name in graph[module]), default=0)
    return found


def home(module: str) -> str:
    "The notebook of a module, relative to the top folder"
    text = (root / 'idkl_nb' / f'{module}.py').read_text(encoding='utf-8')
    return re.search(r'File to edit: \.\./(.*\.ipynb)', text)[1]


def subtitle(module: str) -> str:
    tree = ast.parse((root / 'idkl_nb' / f'{module}.py').read_text(encoding='utf-8'))
    return ast.get_docstring(tree).splitlines()[0]


def table(graph: dict) -> str:
    lines = ['| floor | module | idea | imports |', '| --- | --- | --- | --- |']
    for module, floor in sorted(floors(graph).items(), key=lambda item: (item[1], item[0])):
        names = ', '.join(sorted(graph[module]))
        lines.append(f'| {floor} | [{module}]({home(module)}) | {subtitle(module)} | {names} |')
    return '\n'.join(lines)


def filled(text: str, graph: dict) -> str:
    block = f'<!-- graph -->\n{table(graph)}\n<!-- end -->'
    return re.sub(r'<!-- graph -->\n.*?<!-- end -->', lambda _: block, text, flags=re.S)


if __name__ == '__main__':
    graph, page = imports(), root / 'CONTRIBUTING.md'
    wrong = faults(graph)
    if wrong:
        sys.exit('\n'.join(wrong))
    text = page.read_text(encoding='utf-8')
    if '--check' not in sys.argv:
        page.write_text(filled(text, graph), encoding='utf-8')
    elif filled(text, graph) != text:
        sys.exit('the graph in CONTRIBUTING.md is of yesterday: run python .ci/graph.py')
