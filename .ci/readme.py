"""Write the scores of the last notebook into nbs/index.ipynb, and README.md from its Markdown cells, with links as they are from the top folder.

`--check` only compares. The tables stand between `<!-- scores -->` or `<!-- results -->` and `<!-- end -->`."""

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
    texts = [
        ''.join(out.get('text', ''))
        for cell in cells(root / 'nbs' / '13_end_to_end.ipynb')
        if cell['cell_type'] == 'code'
        for out in cell['outputs']
    ]
    return [
        text.rstrip().splitlines() for text in texts if re.match(r'method +query to gallery', text)
    ]


def blocks() -> dict:
    plain, reranked = printed()
    fenced = [
        '```text',
        'no re-ranking',
        *plain,
        '',
        'with re-ranking (scope all)',
        *reranked,
        '```',
    ]
    rows = {
        tuple(line.split()[:2]): line.split()[4:] for line in plain[1:]
    }  # (method, query) -> rank-1, 5, 10, 20, mAP, ...
    scores = [
        '| | infrared asks: rank-1 / mAP | visible asks: rank-1 / mAP |',
        '| --- | --- | --- |',
    ]
    for method, name in (
        ('L_b', 'the baseline of the paper, `L_b`'),
        ('IDKL', '**IDKL**, the whole objective'),
    ):
        scores.append(
            f'| {name} | '
            + ' | '.join(
                f'{rows[method, query][0]} / {rows[method, query][4]}'
                for query in ('infrared', 'visible')
            )
            + ' |'
        )
    scores.append(
        f'| guessing, among {rows["IDKL", "infrared"][8]} pictures | {rows["IDKL", "infrared"][6]} / - | {rows["IDKL", "visible"][6]} / - |'
    )
    return dict(scores='\n'.join(scores), results='\n'.join(fenced))


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
    text = '\n\n'.join(
        filled(''.join(cell['source'])).strip()
        for cell in cells(index)
        if cell['cell_type'] == 'markdown'
    )
    text = re.sub(
        r'\]\((?!https?:|#)([^)]+)\)', r'](nbs/\1)', text
    )  # links and pictures lie in nbs/
    return (
        '<!-- Written by `make readme` from nbs/index.ipynb: change it there. -->\n\n'
        + text.replace('](nbs/../', '](')
        + '\n'
    )


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
