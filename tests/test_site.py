"""The pages of the site, rendered from the same `_quarto.yml` in pure Python

They are looked at for what a reader would stumble over."""

import ast
import gzip
import html
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
    "Text by address below the site's own, as in `workshop/heatmaps.html` or `08_tgsa.html`"
    folder, _, _ = built
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding='utf-8')
        for path in sorted(folder.rglob('*.html'))
    }


def test_no_page_has_a_fault(built):
    folder, names, warnings = built
    assert not site.faults(folder, names, site.address()) and not warnings


def test_pages_have_their_folders(pages):
    assert {'index.html', '08_tgsa.html', 'workshop/heatmaps.html', 'evidence/speed.html'} <= set(
        pages
    )


def test_every_public_name_has_signature_and_source_link(pages):
    from idkl_nb._modidx import d

    by_address = {site.published(Path(name)): page for name, page in pages.items()}
    missing = []
    for module, names in d['syms'].items():
        for name, (where, path) in names.items():
            short = name.removeprefix(module + '.')
            if '.' in short or short.startswith('_'):
                continue
            address, anchor = where.split('#')
            source = r'href="([^"]*)"[^>]*>source</a>(?:(?!</h[1-6]>).)*?'
            found = re.search(rf'{source}id="{re.escape(anchor)}"', by_address[address], re.S)
            if not found or f'/blob/main/{path}#L' not in found[1]:
                missing.append(where)
    assert not missing


SOURCE = re.compile(
    r'/blob/main/(idkl_nb/\w+\.py)#L(\w+)"[^>]*>source</a></p>\s*<h\d [^>]*>([\w.]+)<'
)


def test_each_source_link_leads_to_the_line_of_its_definition(pages):
    links = [link for page in pages.values() for link in SOURCE.findall(page)]
    assert len(links) > 200
    assert len(links) == sum(page.count('>source</a>') for page in pages.values())

    wrong = []
    for path, line, name in links:
        code = (root / path).read_text(encoding='utf-8').splitlines()
        definition = rf'\s*(?:class|def) {name.rpartition(".")[2]}\b'
        if not line.isdigit() or not re.match(definition, code[int(line) - 1]):
            wrong.append((path, line, name))
    assert not wrong


def test_a_local_build_stays_local(pages):
    """Links from page to page are relative

    Only the page for a wrong address, served in any folder, can't have such."""
    address = site.address()
    outward = {name for name, page in pages.items() if f'href="{address}' in page_links(page)}
    assert outward == {'404.html'}
    inward = [
        link
        for page in pages.values()
        for link in re.findall(r'href="(?!http)[\w/.]+\.html#', page)
    ]
    assert len(inward) > 300
    assert 'href="../08_tgsa.html"' in pages['workshop/page_explorers.html']
    assert 'href="../workshop/heatmaps.html"' in pages['evidence/does_it_hold.html']
    assert 'href="workshop/wardrobe.html"' in pages['01_world.html']


def page_links(page):
    return ' '.join(re.findall(r'<a [^>]*(href="[^"]*)', page))


def pixels(rule, rem=16):
    "The value of scroll-padding-top in a rule, in pixels"
    return float(re.search(r'scroll-padding-top: *([\d.]+)rem', rule)[1]) * rem


def test_an_anchor_is_not_under_the_navigation_bar(built, pages):
    """Quarto's bar is 64 pixels high, 82 in the dark theme

    Up to 991 pixels of width a second one of some 50 is under it."""
    for name, page in pages.items():
        up = '../' * name.count('/')
        assert f'<link rel="stylesheet" href="{up}styles.css">' in page, name
    style = (built[0] / 'styles.css').read_text(encoding='utf-8')
    assert pixels(re.search(r'^html \{[^}]*\}', style, re.M)[0]) > 82
    narrow = re.search(r'^@media \(max-width: 991px\) \{ html \{[^}]*\}', style, re.M)[0]
    assert pixels(narrow) > 82 + 50


def test_the_page_shows_what_the_notebook_says(pages):
    chapter = pages['08_tgsa.html']
    assert 'It copies <em>relations</em>' in chapter  # introduction
    assert 'log_affinity(a, b).exp()' in re.sub('<[^>]+>', '', chapter)  # of an exported function
    assert 'id="eq-15"' in chapter
    link = 'href="../08_tgsa.html#eq-15">15</a>'
    assert link in pages['evidence/paper_versus_code.html']


def front_matter(cell):
    import yaml

    return yaml.safe_load(''.join(cell['source']).strip().strip('-'))


def test_quarto_can_read_what_it_is_given(built):
    "Options of a cell are YAML, at its top; a page has a title and the address that links expect"
    import yaml

    for path in built[0].parent.rglob('*.ipynb'):
        first, *cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        front = front_matter(first)
        assert front['title'], path.name
        assert front['output-file'] == site.published(Path(path.name)), path.name
        for cell in cells:
            if cell['cell_type'] != 'code':
                continue
            lines = ''.join(cell['source']).splitlines()
            options = [line for line in lines if line.startswith('#|')]
            assert options == lines[: len(options)], f'{path.name}: {options}'
            text = '\n'.join(line[2:].strip() for line in options)
            assert isinstance(yaml.safe_load(text or '{}'), dict), f'{path.name}: {options}'


# ------------------------------------------------------------------ what a reader meets first


def text_of(page):
    return html.unescape(re.sub('<[^>]+>', '', page))


def test_signatures_are_those_of_the_source(pages):
    texts = {name: text_of(page) for name, page in pages.items()}
    expected = {
        '08_tgsa.html': "def tgsa_loss(a, b, reduction='sum') -> Float[Tensor, '']",
        '04_backbone.html': 'class Maps(shared, specific)  # NamedTuple',
        'workshop/threads.html': 'def set_threads(environment=os.environ, group=None',
        'workshop/warm_start.html': 'class Make(config=WarmStart(), out=',
        'workshop/common.html': 'class DataError(ValueError)',
    }
    for name, signature in expected.items():
        assert signature in texts[name], name
    for name, text in texts.items():
        assert 'VAR_POSITIONAL' not in text and '<factory>' not in text, name
        assert 'environ({' not in text and 'Exported source' not in text, name


def test_a_parameter_has_its_type_and_its_meaning(pages):
    table = text_of(pages['workshop/heatmaps.html']).partition('def heat_map(')[2]
    rows = [line.split('\n') for line in re.sub('\n{2,}', '\n\n', table).split('\n\n')]
    cells = [' '.join(row).strip() for row in rows]
    assert any("classes Int[Tensor, 'B'] or None y is the logit of this class" in c for c in cells)


def test_parts_of_a_signature():
    s = site.signatures
    words = 'see `a|b`, --root or *all* of L_C'
    assert s.plain(words) == 'see <code>a&#124;b</code>, `--root` or \\*all\\* of L\\_C'
    long = s.call('def f', [s.Parameter(f'number_{n}', '', None, '0', '') for n in range(9)], '')
    assert max(map(len, long.splitlines())) <= s.WIDTH and long.count('\n') == 3
    node = ast.parse('def f(a: int | None = None, *b, c: "X" = field(default_factory=dict)): 0')
    rows = s.of_function(node.body[0], __file__, method=False)
    assert [(row.stars + row.name, row.default) for row in rows] == [
        ('a', 'None'),
        ('*b', None),
        ('c', 'dict()'),
    ]
    assert s.type_words(rows[0].type, site) == '`int` or `None`'


def test_source_plots_and_checks_are_folded(pages):
    for name, page in pages.items():
        assert '<details open' not in page, name
    chapter = pages['08_tgsa.html']
    assert chapter.count('<summary>Check</summary>') >= 2
    assert chapter.count('<summary>Code</summary>') > 2  # of plots
    source = re.search(r'<summary>Source</summary>.*?</details>', chapter, re.S)[0]
    assert 'log_affinity' in source
    places = [chapter.index(f'>{name}</h3>') for name in ('log_rows', 'log_affinity')]
    assert places == sorted(places) and places[1] < chapter.index('<summary>Source</summary>')


def test_the_options_of_every_quiz_can_be_chosen(pages):
    "Three, in the words of the notebook, and the right one is that of the answer"
    quizzes = 0
    for path in sorted((root / 'nbs').rglob('[!.]*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        texts = [''.join(cell['source']) for cell in cells]
        written = [text for text in texts if '**Quiz.**' in text]
        quizzes += len(written)
        page = pages[path.relative_to(root / 'nbs').with_suffix('.html').as_posix()]
        groups = re.findall(r'<div class="quiz" role="radiogroup".*?</div>', page, re.S)
        assert len(groups) == len(written), path.name
        for text, group in zip(written, groups):
            letters = re.findall(r'^([a-z])\. ', text, re.M)
            inputs = re.findall(r'<input type="radio".*? value="(.)"( data-right)?', group)
            assert [letter for letter, _ in inputs] == letters[:-1] == ['a', 'b', 'c']
            assert [letter for letter, right in inputs if right] == letters[-1:]
    assert quizzes == 15


def test_words_that_are_no_quiz_stay():
    assert site.quiz('a. one\nb. two\n\nno answer') == 'a. one\nb. two\n\nno answer'


def test_no_page_shows_a_progress_bar(pages):
    assert not [name for name, page in pages.items() if site.BAR.search(text_of(page))]
    lines = ['step 0\r', ' 10%|#   | 1/10 [00:01<00:09]\r', 'done\n']
    kept = site.without_bars([dict(text=lines), dict(text=lines[1:2]), dict(data={})])
    assert kept == [dict(text=['step 0\r', 'done\n']), dict(data={})]


def test_a_page_asks_no_third_place(built, pages):
    "And Quarto is given no output for which it would load scripts from elsewhere"
    asks = re.compile(
        r'<(?:script|img|iframe|source)[^>]*\ssrc="https?:|rel="stylesheet" href="http'
    )
    assert not [name for name, page in pages.items() if asks.search(page)]
    for style in built[0].rglob('*.css'):
        assert not re.search(
            r'(?:@import|url\()\s*["\']?(?:url\()?https?:', style.read_text('utf-8')
        )

    for path in built[0].parent.rglob('*.ipynb'):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            forms = {form for output in cell.get('outputs', []) for form in output.get('data', {})}
            assert not forms & {'text/html', 'application/javascript'}, path.name


def test_quarto_is_told_to_ship_what_it_needs():
    import yaml

    options = yaml.safe_load((root / '_quarto.yml').read_text(encoding='utf-8'))
    form = options['format']['html']
    folder = root / 'nbs' / form['html-math-method']['url']  # Quarto looks for it from each page
    assert (folder / 'katex.min.js').exists() and (folder / 'LICENSE').exists()
    used = set(re.findall(r'fonts/[\w-]+\.woff2', (folder / 'katex.min.css').read_text('utf-8')))
    assert used and all((folder / font).exists() for font in used)
    assert 'maths/**' in options['project']['resources']
    assert all('fonts.scss' in theme for theme in form['theme'].values())
    named = [form['css'], form['include-after-body'], *form['filters'], 'fonts.scss']
    assert all((root / 'nbs' / name).exists() for name in named)
    assert form['code-overflow'] == 'scroll' and form['tbl-colwidths'] is False


def test_chapters_cite_by_link(pages):
    link = re.search(
        r'<a href="([^"]*)">Selvaraju et al., ICCV 2017', pages['workshop/heatmaps.html']
    )
    assert link[1] == '../references.html#ref-selvaraju2017gradcam'
    keys = {('Wu', '2017'): 'wu2017'}
    text = 'By Wu et al., ICCV 2017, and [Wu et al., ICCV 2017](x), not Who et al., 2017.'
    assert site.cited(text, keys, 'S') == text.replace(
        'Wu et al., ICCV 2017', '[Wu et al., ICCV 2017](S/references.html#ref-wu2017)', 1
    )


def test_a_page_is_light(built, pages):
    "As it travels, compressed, with all its pictures; Quarto's own files are some 100 kB more"
    shared = [*(built[0] / 'site_libs').rglob('*.css'), *(built[0] / 'site_libs').rglob('*.js')]
    shared += [built[0] / 'maths' / 'katex.min.js', built[0] / 'maths' / 'katex.min.css']
    common = sum(len(gzip.compress(path.read_bytes(), 1)) for path in shared)
    heavy = {}
    for name, page in pages.items():
        if len(page) > 500_000:
            heavy[name] = common + len(gzip.compress(page.encode(), 1))
    assert max(heavy.values()) < 1_500_000, heavy


MARKDOWN = re.compile('commonmark|gfm|markdown|^md$')


def test_no_page_has_an_html_name_and_a_markdown_twin(built):
    "Quarto before 1.10 deletes the twin, then looks for it, and fails when all pages are rendered"
    import yaml

    heads = {'_quarto.yml': yaml.safe_load((root / '_quarto.yml').read_text(encoding='utf-8'))}
    for path in built[0].parent.rglob('*.ipynb'):
        first = json.loads(path.read_text(encoding='utf-8'))['cells'][0]
        heads[path.name] = front_matter(first)
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
    steps = flow['jobs']['build']['steps']
    setup = next(step for step in steps if 'quarto-actions/setup' in step.get('uses', ''))
    assert setup['with']['version'] == site.QUARTO
    assert site.QUARTO in site.ADVICE


THREE = {'index.ipynb', '08_tgsa.ipynb', '13_end_to_end.ipynb'}  # words, a chapter, a long one


@pytest.mark.parametrize('pages', ['three', pytest.param('all', marks=pytest.mark.slow)])
def test_nbdev_alone_can_process_the_notebooks(pages, tmp_path):
    "What `nbdev_docs` and `nbdev_preview` do before Quarto; introductions stay"
    for name in ('settings.ini', '_quarto.yml'):
        shutil.copy(root / name, tmp_path)
    left_out = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'runs')
    for name in ('nbs', 'idkl_nb', 'tests'):  # a page shows some of the tests
        shutil.copytree(root / name, tmp_path / name, symlinks=True, ignore=left_out)
    if pages == 'three':
        for path in (tmp_path / 'nbs').rglob('*.ipynb'):
            if path.name not in THREE:
                path.unlink()

    # the command of that name would install Quarto first; one process imports torch once
    script = 'from nbdev.serve import proc_nbs; proc_nbs(n_workers=0)'
    command = [sys.executable, '-c', script]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / '_proc' / '08_tgsa.ipynb').read_text(encoding='utf-8')
    assert 'It copies *relations*' in text


OTHER_PAPERS = {'heatmaps.ipynb'}  # whose formulas have no number here


def test_equations_have_the_papers_numbers():
    places = site.equations()
    assert sorted(map(int, places)) == list(range(1, 22))
    for path in sorted((root / 'nbs').rglob('[!.]*.ipynb')):
        page = site.published(path.relative_to(root / 'nbs'))
        for number in re.findall(r'\\\\tag\{(\d+)\}', path.read_text(encoding='utf-8')):
            message = f"{path.name} numbers a formula ({number}), which is the paper's"
            assert path.name in OTHER_PAPERS or places[number] == page, message


def is_there(name, public):
    "A class, function or constant of the package, or a field or attribute of a class"
    first, *rest = name.split('.')
    if first not in public or not rest:
        return first in public
    found = public[first]
    if rest[0] in {*vars(found), *getattr(found, '__annotations__', {})}:
        return True
    return re.search(rf'self\.{rest[0]}\b', inspect.getsource(found.__init__)) is not None


def test_symbols_name_what_there_is():
    from idkl_nb._modidx import d

    public = {}
    for module in d['syms']:
        public |= vars(importlib.import_module(module))
    cells = json.loads((root / 'nbs' / 'symbols.ipynb').read_text(encoding='utf-8'))['cells']
    rows = []
    for cell in cells:
        rows += re.findall(r'^\| \$.*$', ''.join(cell['source']), re.M)

    names = [name for row in rows for name in re.findall(r'`([\w.]+)`', row)]
    assert len(names) > 40
    assert not [name for name in names if not is_there(name, public)]
    assert not is_there('PKSampler.gone', public) and not is_there('gone', public)

    # 4 and 6 are in ranges, 14 is what the paper departs from
    quoted = {int(number) for row in rows for number in re.findall(r'\d+', row.split('|')[-2])}
    assert quoted >= set(range(1, 22)) - {4, 6, 14}


def sources(name, kinds=('markdown', 'code')):
    cells = json.loads((root / 'nbs' / name).read_text(encoding='utf-8'))['cells']
    return '\n\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] in kinds)


WANTED = (
    'query gallery rank-1 CMC AP mAP INP mINP tap neck albedo coupling dial identity modality '
    'camera re-ranking probe affinity stop-gradient GeM logits single-shot multi-shot all-search '
    'indoor-search world seed interval'
).split() + ['P x K', 'batch-hard triplet', 'warm start']


def test_the_glossary_has_the_words_of_the_field():
    "Sorted, one sentence each, with a link to a page that uses the word"
    text = sources('symbols.ipynb', ('markdown',)).partition('\n## Glossary\n')[2]
    rows = re.findall(r'^\| \*\*(.+?)\*\* \| (.+) \| \[.+\]\((.+)\) \|$', text, re.M)
    terms = [term for term, _, _ in rows]
    assert terms == sorted(terms, key=str.lower)
    assert not set(WANTED) - {word for term in terms for word in term.split(', ')}

    for term, sentence, page in rows:
        assert re.match(r'[A-Z].*\.$', sentence) and '. ' not in sentence, term
        words = [re.sub(r'[\W_]+', ' ', word).lower() for word in term.split(', ')]
        words += re.findall(r'^[A-Z][\w -]+(?=:)', sentence)  # what letters stand for
        used = re.sub(r'[\W_]+', ' ', sources(page).replace('\\times', 'x')).lower()
        assert any(word.lower() in used for word in words), f'{term} does not occur in {page}'


def test_the_lesson_fills_its_minutes():
    text = sources('teachers.ipynb', ('markdown',))
    rows = re.findall(r'^\| (\d+)-(\d+) \| (\w+) \|', text, re.M)
    times = [(int(start), int(end)) for start, end, _ in rows]
    assert times[0][0] == 0 and times[-1][1] == 90
    assert all(end == start for (_, end), (start, _) in zip(times, times[1:]))

    # and the picture shows the same
    drawn = sources('teachers.ipynb', ('code',)).partition('lesson = [')[2]
    pieces = re.findall(r"\((\d+), '(\w+)',", drawn)
    own = [(str(end - start), who) for (start, end), (_, _, who) in zip(times, rows)]
    assert pieces == own


def test_the_references_are_whole():
    "Every entry has what a citation needs, and every author that a chapter names is in one"
    text = (root / 'nbs' / 'references.bib').read_text(encoding='utf-8')
    entries = dict(re.findall(r'^@\w+\{(\w+),\n(.*?)^\}', text, re.M | re.S))
    assert len(entries) == text.count('@')
    for key, entry in entries.items():
        fields = dict(re.findall(r'^  (\w+) *= \{(.*)\},?$', entry, re.M))
        assert {'title', 'author', 'year'} <= set(fields), key
        assert {'booktitle', 'journal', 'url'} & set(fields) and fields['year'] in key, key
    chapters = []
    for path in sorted((root / 'nbs').rglob('[!.]*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        chapters += [''.join(cell['source']) for cell in cells]
    citation = r'([A-Z]\w+) (?:et al\.|and [A-Z]\w+), (?:[A-Za-z]+ )*(20\d\d)'
    cited = set(re.findall(citation, '\n'.join(chapters)))

    known = set()
    for entry in entries.values():
        authors = re.search(r'author *= \{(.*)\}', entry)[1]
        first = authors.split(',')[0].split()[-1].replace("{\\'c}", 'c')
        known.add((first, re.search(r'year *= \{(\d+)', entry)[1]))
    assert len(cited) > 10
    assert not cited - known


GOOD = '''<html><body><h2 id="here">A</h2><p>Text.</p><a href="#here">x</a>
<a href="https://example.org/y">y</a><img src="data:image/png;base64,AA" alt="a curve">
<span class="math">\\(\\frac12\\)</span><pre><code>a = "$$"</code></pre></body></html>'''
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


WELL = (
    '<a href="a.html#here">x</a><a href="room/b.html#here">x</a>'
    '<link href="https://site.org/base/room/b.html#here">'
)
NAMES = {'a.html': '01_a.html', 'room/b.html': 'room/b.html'}


@pytest.mark.parametrize('what', [None, *BROKEN])
def test_each_fault_is_found(what, tmp_path):
    "A missing anchor, for example; a page of another folder is found from either side"
    body = f'<p>Text.</p>{BROKEN.get(what, WELL)}'
    (tmp_path / '01_a.html').write_text(GOOD.replace('<p>Text.</p>', body))
    (tmp_path / 'room').mkdir()
    back = '<a href="../a.html#here">x</a>'
    (tmp_path / 'room' / 'b.html').write_text(GOOD.replace('<p>Text.</p>', back))

    found = site.faults(tmp_path, NAMES, 'https://site.org/base')
    if what is None:
        assert not found
    else:
        assert len(found) == 1 and what.strip() in found[0]


@pytest.mark.parametrize(
    'text, linked',
    [
        ('[a](../01_world.ipynb)', '[a](../01_world.ipynb)'),
        ('[a](../../tests/test_site.py)', '[a](https://example.org/tests/test_site.py)'),
        ('[a](../../CONTRIBUTING.md#x)', '[a](https://example.org/CONTRIBUTING.md#x)'),
    ],
)
def test_links_out_of_the_notebooks_lead_to_the_repository(text, linked):
    assert site.outside(text, Path('workshop'), 'https://example.org') == linked


def test_without_quarto_the_build_says_how_to_get_it(tmp_path):
    done = subprocess.run(
        [sys.executable, root / '.ci' / 'site.py'],
        capture_output=True,
        text=True,
        env=os.environ | dict(PATH=str(tmp_path)),
    )
    assert done.returncode and done.stderr.strip() == site.ADVICE
