"""The pages of the site: rendered from the same `_quarto.yml` in pure Python, and looked at for what a reader would stumble over."""

import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location('idkl_site', root / '.ci' / 'site.py')
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    before = os.getcwd()
    os.chdir(root)  # nbdev looks for settings.ini above the working folder
    try:
        yield site.stand_in(tmp_path_factory.mktemp('site') / 'nbs')
    finally:
        os.chdir(before)


@pytest.fixture(scope='module')
def pages(built):
    return {
        path.stem: path.read_text(encoding='utf-8') for path in sorted(built[0].rglob('*.html'))
    }


def test_no_page_has_a_fault(built):
    folder, names, warnings = built
    assert not site.faults(folder, names, site.address()) and not warnings


def test_every_public_name_has_signature_and_source_link(pages):
    from idkl_nb._modidx import d

    missing = []
    for module, names in d['syms'].items():
        for name, (where, path) in names.items():
            short = name.removeprefix(module + '.')
            if '.' in short or short.startswith('_'):
                continue
            page = next(
                text
                for stem, text in pages.items()
                if site.published(Path(f'{stem}.html')) == where.split('#')[0]
            )
            found = re.search(
                rf'href="([^"]*)"[^>]*>source</a>(?:(?!</h[1-6]>).)*?id="{re.escape(where.split("#")[1])}"',
                page,
                re.S,
            )
            if not found or f'/blob/main/{path}#L' not in found[1]:
                missing.append(where)
    assert not missing


def test_each_source_link_leads_to_the_line_of_its_definition(pages):
    links = [
        link
        for page in pages.values()
        for link in re.findall(
            r'/blob/main/(idkl_nb/\w+\.py)#L(\w+)"[^>]*>source</a></p>\s*<h\d [^>]*>([\w.]+)<', page
        )
    ]
    assert len(links) > 200 and len(links) == sum(
        page.count('>source</a>') for page in pages.values()
    )
    code = {path: (root / path).read_text(encoding='utf-8').splitlines() for path, _, _ in links}
    wrong = [
        (path, line, name)
        for path, line, name in links
        if not line.isdigit()
        or not re.match(rf'\s*(?:class|def) {name.rpartition(".")[2]}\b', code[path][int(line) - 1])
    ]
    assert not wrong


def test_a_local_build_stays_local(pages):
    "Links from page to page are relative; only the page for a wrong address, served in any folder, can't have such"
    address = site.address()
    outward = {
        stem: re.findall(rf'<a [^>]*href="({address}[^"]*)', page) for stem, page in pages.items()
    }
    assert {stem for stem, links in outward.items() if links} == {'404'}
    chapter_to_chapter = [
        link
        for page in pages.values()
        for link in re.findall(r'href="(?!http)[\w/.]+\.html#', page)
    ]
    assert len(chapter_to_chapter) > 300


def pixels(rule, rem=16):
    "The value of scroll-padding-top in a rule, in pixels"
    return float(re.search(r'scroll-padding-top: *([\d.]+)rem', rule)[1]) * rem


def test_an_anchor_is_not_under_the_navigation_bar(built, pages):
    "Quarto's bar is 64 pixels high, 82 in the dark theme; up to 991 pixels of width a second one of some 50 is under it"
    for page in pages.values():
        assert '<link rel="stylesheet" href="styles.css">' in page
    style = (built[0] / 'styles.css').read_text(encoding='utf-8')
    assert pixels(re.search(r'^html \{[^}]*\}', style, re.M)[0]) > 82
    assert (
        pixels(re.search(r'^@media \(max-width: 991px\) \{ html \{[^}]*\}', style, re.M)[0])
        > 82 + 50
    )


def test_the_page_shows_what_the_notebook_says(pages):
    for stem, page in pages.items():
        if stem == '08_tgsa':
            assert 'It copies <em>relations</em>' in page and 'log_affinity(a, b).exp()' in re.sub(
                '<[^>]+>', '', page
            )  # introduction; code of an exported function
    assert (
        'id="eq-15"' in pages['08_tgsa']
        and 'href="08_tgsa.html#eq-15">15</a>' in pages['91_paper_versus_code']
    )


def test_quarto_can_read_what_it_is_given(built):
    "Options of a cell are YAML, at its top; a page has a title and the address that links expect"
    import yaml

    for path in built[0].parent.rglob('*.ipynb'):
        front, *cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        front = yaml.safe_load(''.join(front['source']).strip().strip('-'))
        assert front['title'] and front['output-file'] == site.published(Path(path.name)), path.name
        for lines in (
            ''.join(cell['source']).splitlines() for cell in cells if cell['cell_type'] == 'code'
        ):
            options = [line[2:].strip() for line in lines if line.startswith('#|')]
            assert all(line.startswith('#|') for line in lines[: len(options)]) and isinstance(
                yaml.safe_load('\n'.join(options) or '{}'), dict
            ), f'{path.name}: {options}'


MARKDOWN = re.compile('commonmark|gfm|markdown|^md$')


def test_no_page_has_an_html_name_and_a_markdown_twin(built):
    "Quarto before 1.10 deletes the twin, then looks for it, and fails when all pages are rendered"
    import yaml

    heads = {'_quarto.yml': yaml.safe_load((root / '_quarto.yml').read_text(encoding='utf-8'))}
    for path in built[0].parent.rglob('*.ipynb'):
        first = json.loads(path.read_text(encoding='utf-8'))['cells'][0]
        heads[path.name] = yaml.safe_load(''.join(first['source']).strip().strip('-'))
    for path in built[0].parent.rglob('*.qmd'):
        heads[path.name] = yaml.safe_load(path.read_text(encoding='utf-8').split('---')[1])

    assert any(head.get('output-file', '').endswith('.html') for head in heads.values())
    for name, head in heads.items():
        formats = head.get('format', {})
        formats = [formats] if isinstance(formats, str) else list(formats)
        assert not [format for format in formats if MARKDOWN.search(format)], name


def test_the_workflow_builds_with_the_release_that_is_named():
    import yaml

    flow = yaml.safe_load((root / '.github' / 'workflows' / 'docs.yml').read_text(encoding='utf-8'))
    setup = next(
        step
        for step in flow['jobs']['build']['steps']
        if 'quarto-actions/setup' in step.get('uses', '')
    )
    assert setup['with']['version'] == site.QUARTO and site.QUARTO in site.ADVICE


def test_nbdev_alone_can_process_the_notebooks(tmp_path):
    "What `nbdev_docs` and `nbdev_preview` do before Quarto; introductions stay"
    for name in ('settings.ini', '_quarto.yml'):
        shutil.copy(root / name, tmp_path)
    for name in ('nbs', 'idkl_nb'):
        shutil.copytree(
            root / name,
            tmp_path / name,
            symlinks=True,
            ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'runs'),
        )
    shutil.copytree(
        root / 'tests', tmp_path / 'tests', ignore=shutil.ignore_patterns('__pycache__')
    )  # chapter 93 shows some of them
    subprocess.run(
        [sys.executable, '-c', 'from nbdev.serve import proc_nbs; proc_nbs(n_workers=0)'],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )  # the command of that name would install Quarto first; one process imports torch once
    assert 'It copies *relations*' in (tmp_path / '_proc' / '08_tgsa.ipynb').read_text(
        encoding='utf-8'
    )


def test_equations_have_the_papers_numbers():
    assert sorted(map(int, site.equations())) == list(range(1, 22))
    for path in sorted((root / 'nbs').rglob('[!.]*.ipynb')):
        for number in re.findall(r'\\\\tag\{(\d+)\}', path.read_text(encoding='utf-8')):
            if path.name != 'workshop/pictures.ipynb':
                assert site.equations()[number] == site.published(Path(path.name)), (
                    f'{path.name} numbers a formula ({number}), which is the paper\'s'
                )


def is_there(name, public):
    "A class, function or constant of the package, or a field or attribute of a class"
    first, *rest = name.split('.')
    if first not in public or not rest:
        return first in public
    found = public[first]
    return (
        rest[0] in {*vars(found), *getattr(found, '__annotations__', {})}
        or re.search(rf'self\.{rest[0]}\b', inspect.getsource(found.__init__)) is not None
    )


def test_symbols_name_what_there_is():
    from idkl_nb._modidx import d

    public = {
        name: thing
        for module in d['syms']
        for name, thing in vars(importlib.import_module(module)).items()
    }
    rows = [
        row
        for cell in json.loads((root / 'nbs' / 'symbols.ipynb').read_text(encoding='utf-8'))[
            'cells'
        ]
        for row in re.findall(r'^\| \$.*$', ''.join(cell['source']), re.M)
    ]
    names = [name for row in rows for name in re.findall(r'`([\w.]+)`', row)]
    assert len(names) > 40 and not [name for name in names if not is_there(name, public)]
    assert not is_there('PKSampler.gone', public) and not is_there('gone', public)
    quoted = {int(number) for row in rows for number in re.findall(r'\d+', row.split('|')[-2])}
    assert quoted >= set(range(1, 22)) - {
        4,
        6,
        14,
    }  # 4 and 6 are in ranges, 14 is what the paper departs from


def test_the_references_are_whole():
    "Every entry has what a citation needs, and every author that a chapter names is in one"
    text = (root / 'nbs' / 'references.bib').read_text(encoding='utf-8')
    entries = dict(re.findall(r'^@\w+\{(\w+),\n(.*?)^\}', text, re.M | re.S))
    assert len(entries) == text.count('@')
    for key, entry in entries.items():
        fields = dict(re.findall(r'^  (\w+) *= \{(.*)\},?$', entry, re.M))
        assert {'title', 'author', 'year'} <= set(fields), key
        assert {'booktitle', 'journal', 'url'} & set(fields) and fields['year'] in key, key
    chapters = '\n'.join(
        ''.join(cell['source'])
        for path in sorted((root / 'nbs').rglob('[!.]*.ipynb'))
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']
    )
    cited = set(
        re.findall(r'([A-Z]\w+) (?:et al\.|and [A-Z]\w+), (?:[A-Za-z]+ )*(20\d\d)', chapters)
    )
    known = {
        (fields[0].split(',')[0].split()[-1].replace("{\\'c}", 'c'), fields[1])
        for fields in (
            (re.search(r'author *= \{(.*)\}', entry)[1], re.search(r'year *= \{(\d+)', entry)[1])
            for entry in entries.values()
        )
    }
    assert len(cited) > 10 and not cited - known


GOOD = '<html><body><h2 id="here">A</h2><p>Text.</p><a href="#here">x</a><a href="https://example.org/y">y</a><img src="data:image/png;base64,AA" alt="a curve"><span class="math">\\(\\frac12\\)</span><pre><code>a = "$$"</code></pre></body></html>'
BROKEN = {
    'link to no line': '<a href="https://example.org/blob/main/a.py#LNone">source</a>',
    'which leaves a local build': '<a href="https://site.org/base/a.html#here">x</a>',
    'which is not there': '<a href="gone.html">x</a>',
    'no such anchor': '<a href="#gone">x</a>',
    'without alt text': '<img src="data:image/png;base64,AA">',
    'no such anchor ': '<link href="https://site.org/base/a.html#gone">',
    'raw directive': '<p>#| hide</p>',
    'raw directive in code': '<pre><code>#| fig-alt: a</code></pre>',
    'formula that is not rendered': '<p>$$a_1$$</p>',
    'formula that is not rendered ': '<p>as $\\lambda_1$ says</p>',
    'raw fence': '<p>:::: box</p>',
    'raw attribute': '<nav>Check {#about-check}</nav>',
    'which is not there ': '<img src="images/gone.png" alt="a">',
}


@pytest.mark.parametrize('what', [None, *BROKEN])
def test_each_fault_is_found(what, tmp_path):
    (tmp_path / '01_a.html').write_text(
        GOOD.replace(
            '<p>Text.</p>',
            '<p>Text.</p>'
            + BROKEN.get(
                what, '<a href="a.html#here">x</a><link href="https://site.org/base/a.html#here">'
            ),
        )
    )
    found = site.faults(tmp_path, {'a.html': '01_a.html'}, 'https://site.org/base')
    assert [fault for fault in found if (what or '').strip() in fault] == found and len(found) == (
        what is not None
    )


def test_without_quarto_the_build_says_how_to_get_it(tmp_path):
    done = subprocess.run(
        [sys.executable, root / '.ci' / 'site.py'],
        capture_output=True,
        text=True,
        env=os.environ | dict(PATH=str(tmp_path)),
    )
    assert done.returncode and done.stderr.strip() == site.ADVICE
