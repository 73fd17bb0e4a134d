"""The explorers of the page: their pictures, drawn by their modules in Chromium, and their HTML

The picture of the search shows what networks find, and is drawn by the package.

`make stills` writes `idkl_nb/modules/NAME.svg`, and the HTML of each explorer into the
notebooks that show it. It needs Chromium and playwright."""

import json
import re
import shutil
from pathlib import Path

root = Path(__file__).resolve().parents[1]
CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
DRAW = """async ([source, state]) => {
    const address = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }))
    return (await import(address)).default.still(state) }"""


def draw(page) -> dict:
    "SVG by the name of the explorer, from an open page of playwright"
    from idkl_nb.page_explorers import STARTS, module_source

    stills = {}
    for name, start in STARTS.items():
        if name == 'search':
            continue
        stills[name] = page.evaluate(DRAW, [module_source(start.module), start.state]) + '\n'
    return stills


def write_pictures():
    from playwright.sync_api import sync_playwright

    from idkl_nb.page_explorers import STARTS
    from idkl_nb.page_still import still as search_still

    with sync_playwright() as started:
        arguments = ['--no-sandbox', '--disable-dev-shm-usage']
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        stills = draw(browser.new_page())
        browser.close()
    stills['search'] = search_still(STARTS['search'].state['person']) + '\n'
    for name, still in stills.items():
        (root / 'idkl_nb' / 'modules' / f'{name}.svg').write_text(still, encoding='utf-8')


def renew(notebook: Path):
    "Put the explorers of today into a notebook"
    from idkl_nb.page_explorers import STARTS, page

    text = notebook.read_text(encoding='utf-8')
    book = json.loads(text)
    for cell in book['cells']:
        for out in cell.get('outputs', []):
            data = out.get('data', {})
            shown = re.match(r'<div data-explorer="(\w+)"', ''.join(data.get('text/html', '')))
            if shown:
                data['text/html'] = page(shown[1]).splitlines(keepends=True)
                data['text/plain'] = [STARTS[shown[1]].alt]
    made = json.dumps(book, sort_keys=True, indent=1, ensure_ascii=False) + '\n'
    if made != text:
        notebook.write_text(made, encoding='utf-8')


if __name__ == '__main__':
    write_pictures()
    for path in sorted((root / 'nbs').rglob('[!.]*.ipynb')):
        renew(path)
