"""Write the scores of the last notebook into nbs/index.ipynb, and README.md from its Markdown cells

Links are written as they are from the top folder. `--check` only compares. The tables stand between
`<!-- scores -->` or `<!-- results -->` and `<!-- end -->`."""

import json
import re
import sys
from pathlib import Path

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


def scores(lines: list) -> str:
    "Rank-1 and mAP of a printed table, as a table for people"
    rows = {tuple(line.split()[:2]): line.split()[4:] for line in lines[1:]}  # by method and query

    def row(name, method, show):
        cells = [show(rows[method, query]) for query in ('infrared', 'visible')]
        return f'| {name} | {cells[0]} | {cells[1]} |'

    def both(numbers):  # rank-1, rank-5, rank-10, rank-20, mAP, mINP, chance, queries, gallery
        return f'{numbers[0]} / {numbers[4]}'

    def chance(numbers):
        return f'{numbers[6]} / -'

    gallery = rows['IDKL', 'infrared'][8]
    table = [
        '| | infrared asks: rank-1 / mAP | visible asks: rank-1 / mAP |',
        '| --- | --- | --- |',
        row('the baseline of the paper, `L_b`', 'L_b', both),
        row('**IDKL**, the whole objective', 'IDKL', both),
        row(f'guessing, among {gallery} pictures', 'IDKL', chance),
    ]
    return '\n'.join(table)


def blocks() -> dict:
    "What stands between the marks, by their name"
    first, reranked = printed()
    fenced = ['```text', 'no re-ranking', *first, '']
    fenced += ['with re-ranking (scope all)', *reranked, '```']
    return dict(scores=scores(first), results='\n'.join(fenced))


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
