"""Fill the tables of some pages, and write README.md from the home page's Markdown cells

A table stands between its mark, such as `<!-- scores -->`, and `<!-- end -->`. Scores come from
nbs/results, results from the last notebook, the map and the list of pages from titles, from the
line below them, and from `_quarto.yml`. Links in README.md are written as they are from the top
folder. `--check` only compares."""

import functools
import json
import re
import sys
from pathlib import Path

import yaml

from idkl_nb.comparisons import paired, table
from idkl_nb.trial import read_runs

root = Path(__file__).resolve().parents[1]
nbs = root / 'nbs'
index = nbs / 'index.ipynb'
PAGES = (index, nbs / 'measured.ipynb', nbs / 'contents.ipynb')  # which have such tables
SHORT = dict(tgsa='TGSA', csa='CSA', mdr='MDR', metrics='Scores')  # on the map; else the file's
HEAD = re.compile(r'^\*(\d+) minutes to read(?:.*? Before: (.*?)|.*?)\.?\*$', re.M)


def cells(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def row(*cells):
    return '| ' + ' | '.join(cells) + ' |'


def lines_of(header, rows) -> list:
    "A table in Markdown"
    return [row(*header), row(*['---'] * len(header)), *(row(*cells) for cells in rows)]


def printed() -> list:
    "The two tables that the last notebook printed: without and with re-ranking"
    tables = []
    for cell in cells(nbs / '13_end_to_end.ipynb'):
        for out in cell.get('outputs', []):
            text = ''.join(out.get('text', ''))
            if re.match(r'method +query to gallery', text):
                tables.append(text.rstrip().splitlines())
    return tables


def results() -> str:
    first, reranked = printed()
    fenced = ['```text', 'no re-ranking', *first, '']
    return '\n'.join([*fenced, 'with re-ranking (scope all)', *reranked, '```'])


def scores() -> str:
    "mAP of both methods over worlds, at two stops of the dial, as a table for people"
    runs = read_runs(nbs / 'results' / 'runs.csv')
    rows = table('main', runs).droplevel('seed')['mAP']
    untrained = table('untrained, new start', runs)['mAP'].groupby('dial').mean()
    means, gains, starts = {}, [], []
    for dial, values in rows.groupby('dial'):
        by_method = values.droplevel('dial').unstack('name')
        for method in ('L_b', 'IDKL'):
            means.setdefault(method, []).append(f'{by_method[method].mean():.1f}')
        d = paired(by_method, 'L_b', comparisons=2).loc['IDKL']
        gains.append(f'{d.difference:+.1f} ({d.low:.1f} to {d.high:.1f})')
        starts.append(f'{untrained[dial]:.1f}')

    worlds = rows.index.to_frame(index=False).groupby('dial').world.nunique()
    names = {0.0: 'no brightness in common', 0.65: 'the default dial, 0.65'}
    header = ['mAP', *(f'{names[dial]}: mean of {worlds[dial]} worlds' for dial in worlds.index)]
    body = [
        ('the start, without any training', *starts),
        ('the baseline of the paper, `L_b`', *means['L_b']),
        ('**IDKL**, preset `embedded`', *means['IDKL']),
        ('IDKL minus `L_b`, within a world', *gains),
    ]
    return '\n'.join(lines_of(header, body))


def title(name) -> tuple:
    "Title and one line of a page, by its name below nbs/"
    text = (nbs / name).read_text(encoding='utf-8')
    if name.endswith('.qmd'):
        head = yaml.safe_load(text.split('---')[1])
        return head['title'], head['description']
    cells = json.loads(text)['cells']
    first = next(cell for cell in cells if cell['cell_type'] == 'markdown')
    found = re.match(r'# (.+)\n+> (.+)', ''.join(first['source']))
    return found[1], found[2]


def head(name) -> tuple:
    "Minutes, and what comes before, as the line below a chapter's title says; - where none does"
    for cell in cells(nbs / name):
        found = HEAD.search(''.join(cell['source']))
        if found and cell['cell_type'] == 'markdown':
            return found[1], found[2] or '-'
    return '-', '-'


def chapters() -> list:
    return sorted(path.name for path in nbs.glob('[01]*.ipynb'))


def short(name) -> str:
    "A chapter in a word or two"
    stem = re.sub(r'^\d+_', '', Path(name).stem)
    return SHORT.get(stem, stem.replace('_', ' ').capitalize())


def needs() -> str:
    "The map: each chapter with its minutes and the chapters that it builds on"
    known, body = set(chapters()), []
    for name in chapters():
        minutes, before = head(name)
        links = [link for link in re.findall(r'\]\((\w+\.ipynb)', before) if link in known]
        words = ', '.join(map(short, links)) or '-'
        body.append((f'[{short(name)}]({name})', minutes, words))
    return '\n'.join(lines_of(('chapter', 'minutes', 'needs'), body))


def listed(entries, level=2):
    "Lines for the sidebar's entries: a table of pages, then each section under a heading"
    entries = [dict(href=entry) if isinstance(entry, str) else entry for entry in entries]
    names = [entry['href'] for entry in entries if 'href' in entry]
    names = [name for name in names if name not in ('index.ipynb', 'contents.ipynb')]
    is_chapter = any(name in chapters() for name in names)
    body = []
    for name in names:
        words, line = title(name)
        more = head(name) if is_chapter else ()
        body.append((f'[{words}]({name})', line, *more))
    if body:
        header = ('page', 'what it is about', *(('minutes', 'before') if is_chapter else ()))
        yield from ['', *lines_of(header, body)]
    for entry in entries:
        if 'section' in entry:
            yield from ['', f'{"#" * level} {entry["section"]}']
            yield from listed(entry['contents'], level + 1)


def contents() -> str:
    "Every page in the order of the sidebar"
    options = yaml.safe_load((root / '_quarto.yml').read_text(encoding='utf-8'))
    return '\n'.join(listed(options['website']['sidebar']['contents'])).strip()


BLOCKS = dict(scores=scores, results=results, map=needs, contents=contents)


@functools.cache
def block(name) -> str:
    "What stands between the marks of this name"
    return BLOCKS[name]()


def filled(text: str) -> str:
    return re.sub(
        rf'(<!-- ({"|".join(BLOCKS)}) -->\n).*?(<!-- end -->)',
        lambda found: f'{found[1]}\n{block(found[2])}\n\n{found[3]}',
        text,
        flags=re.S,
    )


def readme() -> str:
    parts = [''.join(cell['source']) for cell in cells(index) if cell['cell_type'] == 'markdown']
    text = '\n\n'.join(filled(part).strip() for part in parts)
    # links and pictures lie in nbs/
    text = re.sub(r'\]\((?!https?:|#)([^)]+)\)', r'](nbs/\1)', text).replace('](nbs/../', '](')
    head = '<!-- Written by `make readme` from nbs/index.ipynb: change it there. -->'
    return f'{head}\n\n{text}\n'


def fresh(path) -> str:
    "The notebook with its tables as they should be"
    book = json.loads(path.read_text(encoding='utf-8'))
    for cell in book['cells']:
        if cell['cell_type'] == 'markdown':
            cell['source'] = filled(''.join(cell['source'])).splitlines(True)
    return json.dumps(book, sort_keys=True, indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    texts = {path: fresh(path) for path in PAGES}
    for path, text in {**texts, root / 'README.md': readme()}.items():
        if '--check' not in sys.argv:
            path.write_text(text, encoding='utf-8')
        elif path.read_text(encoding='utf-8') != text:
            sys.exit(f'{path.relative_to(root)} is not in step with the notebooks: run make readme')
