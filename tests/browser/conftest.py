"The rendered pages and a browser, for the tests of this folder"

from pathlib import Path

import pytest


@pytest.fixture(scope='module')
def pages(tmp_path_factory, worker_id):
    "Rendered by the first process of pytest that asks, for all of them"
    from filelock import FileLock
    from rendered import root, site  # here: without a browser this skips the test that asks

    here = tmp_path_factory.getbasetemp()
    shared = (here if worker_id == 'master' else here.parent) / 'site'
    made = shared / 'made.txt'
    with FileLock(f'{shared}.lock'), pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # nbdev looks for settings.ini above the working folder
        if not made.exists():
            made.parent.mkdir(exist_ok=True)
            folder = site.stand_in(shared / 'nbs')[0]
            site.add_world(folder)
            site.add_python(folder)  # Pyodide comes from npm, the first time
            made.write_text(str(folder))
    return sorted(Path(made.read_text()).rglob('*.html'))


@pytest.fixture(scope='module')
def browser():
    from rendered import open_browser

    with open_browser() as opened:
        yield opened
