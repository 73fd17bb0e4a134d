"""Write scores into nbs/index.ipynb, and README.md from its Markdown cells

Links are written as they are from the top folder. `--check` only compares. The tables come from
nbs/results and the last notebook, and stand between `<!-- scores -->` or `<!-- results -->` and
`<!-- end -->`."""

import functools
import json
import re
import sys
from pathlib import Path

from idkl_nb.comparisons import paired, table
from idkl_nb.trial import read_runs

root = Path(__file__).resolve().parents[1]
index = root / 'nbs' / 'index.ipynb'


def cells(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def printed() -> list:
    "The two tables that the last notebook printed: without and with re-ranking"
    tables = []
    for cell in cells(root / 'nbs' / '13_end_to_end.ipynb'):
        for out in cell.get('outputs', []):
            text = ''.join(out.get('text', ''))
            if re.match(r'method +query to gallery', text):
                tables.append(text.rstrip().splitlines())
    return tables


def scores() -> str:
    "mAP of both methods over worlds, at two stops of the dial, as a table for people"
    runs = read_runs(root / 'nbs' / 'results' / 'runs.csv')
    rows = table('main', runs).droplevel('seed')['mAP']
    untrained = table('start', runs)['mAP']['untrained, WORLD_V2'].groupby('dial').mean()
    means, gains, starts = {}, [], []
    for dial, values in rows.groupby('dial'):
        by_method = values.droplevel('dial').unstack('name')
        for method in ('L_b', 'IDKL'):
            means.setdefault(method, []).append(f'{by_method[method].mean():.1f}')
        d = paired(by_method, 'L_b', comparisons=2).loc['IDKL']
        gains.append(f'{d.difference:+.1f} ({d.low:.1f} to {d.high:.1f})')
        starts.append(f'{untrained[dial]:.1f}' if dial in untrained else '-')

    def row(*cells):
        return '| ' + ' | '.join(cells) + ' |'

    worlds = rows.index.to_frame(index=False).groupby('dial').world.nunique()
    names = {0.0: 'no brightness in common', 0.65: 'the default dial, 0.65'}
    stops = [f'{names[dial]}: mean of {worlds[dial]} worlds' for dial in worlds.index]
    lines = [
        row('mAP', *stops),
        row(*['---'] * (len(stops) + 1)),
        row('the start, without any training', *starts),
        row('the baseline of the paper, `L_b`', *means['L_b']),
        row('**IDKL**, preset `embedded`', *means['IDKL']),
        row('IDKL minus `L_b`, within a world', *gains),
    ]
    return '\n'.join(lines)


@functools.cache
def blocks() -> dict:
    "What stands between the marks, by their name"
    first, reranked = printed()
    fenced = ['```text', 'no re-ranking', *first, '']
    fenced += ['with re-ranking (scope all)', *reranked, '```']
    return dict(scores=scores(), results='\n'.join(fenced))


def filled(text: str) -> str:
    for name, block in blocks().items():
        text = re.sub(
            rf'(<!-- {name} -->\n).*?(<!-- end -->)',
            lambda found: found[1] + '\n' + block + '\n\n' + found[2],
            text,
            flags=re.S,
        )
    return text


def readme() -> str:
    parts = [''.join(cell['source']) for cell in cells(index) if cell['cell_type'] == 'markdown']
    text = '\n\n'.join(filled(part).strip() for part in parts)
    # links and pictures lie in nbs/
    text = re.sub(r'\]\((?!https?:|#)([^)]+)\)', r'](nbs/\1)', text).replace('](nbs/../', '](')
    head = '<!-- Written by `make readme` from nbs/index.ipynb: change it there. -->'
    return f'{head}\n\n{text}\n'


def fresh_index() -> str:
    book = json.loads(index.read_text(encoding='utf-8'))
    for cell in book['cells']:
        if cell['cell_type'] == 'markdown':
            cell['source'] = filled(''.join(cell['source'])).splitlines(True)
    return json.dumps(book, sort_keys=True, indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    for path, text in ((index, fresh_index()), (root / 'README.md', readme())):
        if '--check' not in sys.argv:
            path.write_text(text, encoding='utf-8')
        elif path.read_text(encoding='utf-8') != text:
            sys.exit(f'{path.relative_to(root)} is not in step with the notebooks: run make readme')
