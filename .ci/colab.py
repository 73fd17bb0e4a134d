"""Give notebooks their "Open in Colab" badge and the cell that installs what is missing there

The home page's badge opens the tour. Nothing is executed, and a second call changes nothing.
`python .ci/colab.py` for all notebooks of nbs/, or with the names of some; `--check` only names
those that lack one."""

import json
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
HOME = 'https://github.com/idkl-nb/idkl_nb'
CELL = """#| hide
from importlib.util import find_spec

if not find_spec('idkl_nb'):  # outside a clone, as on Colab: pages read files beside them
    !git clone -q --depth 1 {home} clone
    %pip install -q "./clone[chapters]"
    %cd -q clone/{folder}
import idkl_nb  # before torch: it sets how threads wait"""
TOUR = '00_tour.ipynb'


def notebooks() -> list[Path]:
    return sorted((root / 'nbs').rglob('[!.]*.ipynb'))


def badge(name) -> str:
    "The picture, and the link to the notebook in Colab"
    colab = 'https://colab.research.google.com'
    page = f'{HOME.replace("https://github.com", f"{colab}/github")}/blob/main/nbs/{name}'
    return f'[![Open in Colab]({colab}/assets/colab-badge.svg)]({page})'


def markdown(id, text) -> dict:
    return dict(cell_type='markdown', id=id, metadata={}, source=text.splitlines(True))


def code(id, text) -> dict:
    source = text.splitlines(True)
    return dict(
        cell_type='code', execution_count=None, id=id, metadata={}, outputs=[], source=source
    )


def equipped(text, name) -> str:
    """The notebook's text with badge and cell below its title

    The title has a cell of its own: nbdev makes the head of a page of it, and drops what else is
    there."""
    book = json.loads(text)
    cells = [
        cell for cell in book['cells'] if "find_spec('idkl_nb')" not in ''.join(cell['source'])
    ]
    place = next(n for n, cell in enumerate(cells) if cell['cell_type'] == 'markdown')

    # what stands below the title in its cell gets one
    title, _, rest = ''.join(cells[place]['source']).partition('\n\n')
    cells[place]['source'] = title.splitlines(True)
    if rest or cells[place + 1]['cell_type'] != 'markdown':
        cells.insert(place + 1, markdown('c01ab001', rest))

    intro = cells[place + 1]
    parts = [part for part in ''.join(intro['source']).split('\n\n') if part]
    parts = [part for part in parts if not part.startswith('[![Open in Colab]')]
    opens = TOUR if name == 'index.ipynb' else name
    intro['source'] = '\n\n'.join([badge(opens), *parts]).splitlines(True)
    install = CELL.format(home=HOME, folder=(Path('nbs') / name).parent.as_posix())
    cells.insert(place + 2, code('c01ab000', install))
    book['cells'] = cells
    return json.dumps(book, sort_keys=True, indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    names = [name for name in sys.argv[1:] if name != '--check']
    names = names or [path.relative_to(root / 'nbs').as_posix() for path in notebooks()]
    lacking = []
    for name in names:
        path = root / 'nbs' / name
        text = path.read_text(encoding='utf-8')
        if equipped(text, name) == text:
            continue
        lacking.append(name)
        if '--check' not in sys.argv:
            path.write_text(equipped(text, name), encoding='utf-8')
    if '--check' in sys.argv and lacking:
        sys.exit(f'without badge or install cell: {", ".join(lacking)}. Run python .ci/colab.py')
