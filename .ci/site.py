"""The site: nbdev processes the notebooks, Quarto renders `_quarto.yml`

Nothing is executed: the outputs in the notebooks are what a reader sees.

`python .ci/site.py` builds `_docs` with Quarto. `python .ci/site.py --check` renders the same files
with smalldocs, in pure Python, and looks for faults. `--stand-in FOLDER` keeps those pages."""

import argparse
import functools
import importlib
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root / '.ci'))
import signatures  # noqa: E402

QUARTO = '1.7.34'  # the release that the workflow builds with
ADVICE = (
    f'Quarto is not installed: get {QUARTO} or a newer one from '
    'https://quarto.org/docs/get-started (or `python -m pip install quarto-cli`), '
    'then run `make docs` again.'
)


def published(
    path,  # of a source, relative to nbs/
):
    "Address of a page below the site's own: nbdev leaves the number of a chapter out, `03b_` too"
    return path.with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', path.stem) + '.html').as_posix()


def equations(project=root):
    """Number of each of the paper's equations -> the page that quotes it

    The chapters of the method tag them as the paper does."""
    places = {}
    for path in sorted((project / 'nbs').glob('[01]*.ipynb')):
        if 4 <= int(path.name[:2]) <= 11:
            for number in re.findall(r'\\\\tag\{(\d+)\}', path.read_text(encoding='utf-8')):
                places[number] = published(Path(path.name))
    return places


def cross_reference(
    text,  # Markdown
    places,  # page by number of an equation
    page,  # published address of this one
    site,  # where the site will be
):
    "An anchor before each tagged formula of this page, and a link on each number after `Eq.`"

    def numbered(match):
        n = match[0]
        return f'[{n}]({site}/{places[n]}#eq-{n})' if n in places else n

    def linked(match):
        return re.sub(r'\d+', numbered, match[0])

    def anchored(match):
        formula, n = match.groups()
        if places.get(n) != page:
            return formula
        return f'\n<a id="eq-{n}"></a>\n\n{formula}\n'

    text = re.sub(r'\bEq\. \(?\d+\)?(?:(?:-|, | and | to )\(?\d+\b\)?)*', linked, text)
    return re.sub(r'^(\$\$.*\\tag\{(\d+)\}\$\$)$', anchored, text, flags=re.M)


def references(project=root):
    "(first author, year) -> key, of the entries of references.bib"
    text = (project / 'nbs' / 'references.bib').read_text(encoding='utf-8')
    keys = {}
    for key, entry in re.findall(r'^@\w+\{(\w+),\n(.*?)^\}', text, re.M | re.S):
        author = re.search(r'author *= \{([^,}]*)', entry)[1].split()[-1]
        year = re.search(r'year *= \{(\d+)', entry)[1]
        keys[author, year] = key
    return keys


def cited(
    text,  # Markdown
    keys,  # of `references`
    site,  # where the site will be
):
    "`Wu et al., ICCV 2017` as a link to the entry on the page of the references"

    def linked(match):
        key = keys.get((match[1], match[2]))
        return f'[{match[0]}]({site}/references.html#ref-{key})' if key else match[0]

    pattern = r'(?<![\[\w])([A-Z]\w+) (?:et al\.|and [A-Z]\w+), (?:[A-Za-z]+ )*(20\d\d)'
    return re.sub(pattern, linked, text)


def local(
    text,  # Markdown or HTML
    pages,  # published address of each page -> its source, both relative to nbs/
    folder,  # folder of the page that holds the text, relative to nbs/
    site,  # where the site will be, without a slash at its end
):
    "Links to pages of the site as links to their sources: the renderer makes them relative"

    def to_source(match):
        opening, page = match.groups()
        source = pages.get(page or 'index.html')
        if source is None:
            return match[0]
        return opening + Path(os.path.relpath(source, folder)).as_posix()

    return re.sub(rf'(\]\(|href="){re.escape(site)}/?([^)#"\s]*)', to_source, text)


def outside(
    text,  # Markdown
    folder,  # folder of the page that holds the text, relative to nbs/
    repository,  # where the files of the branch are shown
):
    "Links to what is not in nbs/, and so not on the site, as links to the repository"

    def to_repository(match):
        path = os.path.normpath(os.path.join('nbs', folder, match[1]))
        if path.startswith('nbs' + os.sep):
            return match[0]
        return f']({repository}/{Path(path).as_posix()}'

    return re.sub(r'\]\((\.\./[^)#\s]*)', to_repository, text)


def signature(
    name,  # of a function or class of the module, or `Class.method`
    module,
    places,  # page by number of an equation
):
    "Markdown with source link, signature, table of parameters and description"
    from nbdev.config import get_config

    config = get_config()
    file = Path(module.__file__).relative_to(config.lib_path.parent).as_posix()
    line = signatures.definition(name, module.__file__).lineno
    link = f'{config.git_url}/blob/{config.branch}/{file}#L{line}'
    style = '{target="_blank" style="float:right; font-size:smaller"}'
    text = cross_reference(
        signatures.described(name, module), places, None, config.doc_host + config.doc_baseurl
    )
    return f'---\n\n[source]({link}){style}\n\n### {name}\n\n{text}'


def linked_names(cell, lookup):
    """nbdev's links of names in backticks

    A method leads to its class, and a private name, which no page shows, nowhere."""
    from nbdev.processors import add_links

    def attribute(match):
        address = lookup.doc(match[1])
        return f'[{match[0]}]({address})' if address else match[0]

    add_links(cell)
    if cell.cell_type != 'markdown' or not cell.source:
        return
    text = re.sub(r'\[(`[^`\]]+`)\]\(https?://[^)#]+\.html#_[^)]*\)', r'\1', cell.source)
    text = re.sub(r'(\[`[^`\]]+`\]\(https?://[^)#]+\.html#\w+)\.[^)]*\)', r'\1)', text)
    cell.source = re.sub(r'(?<!\[)`([A-Z]\w+)\.\w+`(?!\])', attribute, text)


def headings(
    text,  # Markdown
    defined,  # names in lower case of the functions and classes of the page
):
    "Headings that are a name get an anchor of their own, for the name's is its signature"

    def renamed(match):
        name = match[1].lower()
        return f'{match[0]} {{#about-{name}}}' if name in defined else match[0]

    return re.sub(r'^##+ (\w+)$', renamed, text, flags=re.M)


DEFINES = re.compile(r'^(?:class|def|@)', re.M)
BAR = re.compile(r'\d%\|.*\| *\d+/\d+')  # of tqdm
BADGE = re.compile(r'\[!\[(Open in Colab)\]\([^)]*\)\]\(([^)]*)\)')


def directives(
    source,  # of a code cell
    outputs=(),
):
    """The cell with its options at the top, as Quarto wants them

    Code that draws a picture, or that only checks, is folded."""

    def quoted(match):  # YAML: a colon needs quotes
        return match[1] + json.dumps(match[2], ensure_ascii=False)

    lines = source.splitlines()
    options = [line for line in lines if line.startswith('#|')]
    options = [re.sub(r'^(#\| *fig-(?:alt|cap): *)(?!")(.*)', quoted, line) for line in options]
    if DEFINES.search(source):  # a formula has its code beside it
        options = [re.sub(r'^#\| *export *$', '#| exports', line) for line in options]
    elif not re.search(r'^#\| *(?:code-fold|export|hide)', source, re.M):
        pictures = [output for output in outputs if 'image/png' in output.get('data', {})]
        if pictures and len(lines) - len(options) > 1:
            options += ['#| code-fold: true']
        if not outputs and re.search(r'^ *(?:assert|test_eq|test_fail|test_close)\b', source, re.M):
            options += ['#| code-fold: true', '#| code-summary: "Check"']
    return '\n'.join(options + [line for line in lines if not line.startswith('#|')])


def without_bars(outputs):
    "What a cell printed, without lines of a progress bar"
    kept = []
    for output in outputs:
        if 'text' in output:
            text = re.split(r'(?<=[\n\r])', ''.join(output['text']))
            output['text'] = [line for line in text if line and not BAR.search(line)]
        if output.get('text', True):
            kept.append(output)
    return kept


def sources_last(nb):
    "Of each exported cell: signatures in the order of the source, then the source, folded"
    cells = []
    for cell in nb.cells:
        if not getattr(cell, 'has_sd', False):
            first = len(cells)
        place = first if getattr(cell, 'has_sd', False) else len(cells)
        cells.insert(place, cell)
    nb.cells[:] = cells


def folded(cell):
    if cell.cell_type == 'code' and 'exports' in cell.directives_:
        cell.source = f'#| code-fold: true\n#| code-summary: "Source"\n{cell.source}'


def scrolling(text):
    "Each table of Markdown in a box that scrolls"
    return re.sub(r'((?:^\|.*\n?){3,})', r'::: {.scrolls}\n\n\1\n\n:::\n', text, flags=re.M)


PYTHON = dict(folder='python_files', megabytes=13)
RUNS_HERE = re.compile(r'^#\| *runs-here *\n', re.M)


def setup_of_exercises():
    "Python that cells of exercises find in a page, where the package is not"
    from idkl_nb.exercises import RIGHT, NotWritten, verdict

    parts = [f'RIGHT = {RIGHT!r}', inspect.getsource(NotWritten), inspect.getsource(verdict)]
    return '\n'.join(['from collections.abc import Callable', *parts])


def run_here(nb):
    "A mark before each cell that can run in the page, and the script that makes it run"
    from execnb.nbio import mk_cell

    cells = []
    for cell in nb.cells:
        if cell.cell_type == 'code' and RUNS_HERE.search(cell.source):
            cell.source = RUNS_HERE.sub('', cell.source)
            cells.append(mk_cell('<div class="runs-here"></div>', 'markdown'))
        cells.append(cell)
    if len(cells) > len(nb.cells):
        options = json.dumps(PYTHON | dict(setup=setup_of_exercises()))
        script = Path(__file__).with_name('python_here.mjs').read_text(encoding='utf-8')
        script = f'<script type="module">\nconst options = {options}\n{script}</script>'
        cells.append(mk_cell(as_markdown(script), 'markdown'))
    nb.cells[:] = cells


QUIZ = re.compile(
    r'^(?P<options>(?:[a-z]\. .*\n)+)'
    r'(?P<rest>\n<details><summary>Answer</summary>\n\n(?P<right>[a-z])\. )',
    re.M,
)


def quiz(text):
    """The options of a quiz, lines `a. words`, to be chosen; `names.html` says what is right

    Without JavaScript they are read as before."""

    def option(line, right):
        letter, words = line.split('. ', 1)
        mark = ' data-right' if letter == right else ''
        choose = f'<input type="radio" name="quiz" value="{letter}"{mark} hidden>'
        return f'<label>{choose} {letter}. {words}</label>\n\n'

    def options(match):
        lines = [option(line, match['right']) for line in match['options'].splitlines()]
        group = '<div class="quiz" role="radiogroup" aria-label="Quiz">'
        return f'{group}\n\n{"".join(lines)}<output></output>\n\n</div>\n{match["rest"]}'

    return QUIZ.sub(options, text)


def as_markdown(html):
    """HTML of an output as a raw block, its tables in boxes that scroll

    For an output of the form text/html Quarto would load require.js and jQuery from a third place,
    before anything of the page is shown."""
    html = re.sub(r'(<table.*?</table>)', r'<div class="scrolls">\1</div>', html, flags=re.S)
    fence = '`' * 12  # longer than any in the text
    return f'{fence}{{=html}}\n{html}\n{fence}'


def document(
    source,  # a notebook
    target,  # where it is written
    places,  # page by number of an equation
    keys,  # of `references`
    pages,  # published address of each page -> its source
):
    """Write a notebook as Quarto reads it

    nbdev's directives are done, equations linked, and each exported symbol has its signature, a
    link to its source and its code."""
    from execnb.nbio import read_nb, write_nb
    from nbdev.config import get_config
    from nbdev.doclinks import NbdevLookup
    from nbdev.process import Processor
    from nbdev.processors import FilterDefaults, add_fold, add_links, exec_show_docs, mv_exports

    config, lookup = get_config(), NbdevLookup()
    site = config.doc_host + config.doc_baseurl
    repository = f'{config.git_url}/blob/{config.branch}'
    path = source.relative_to(config.nbs_path)
    nb = read_nb(source)
    run_here(nb)
    code = '\n'.join(cell.source for cell in nb.cells if cell.cell_type == 'code')
    module = re.search(r'#\| *default_exp (\w+)', code)
    defined = {name.lower() for name in re.findall(r'^(?:class|def) (\w+)', code, re.M)}

    class show_without_running(Processor):
        "Fill the cells that nbdev adds from the installed module; no cell of the page is run"

        def begin(self):
            self.module = module and importlib.import_module(f'idkl_nb.{module[1]}')

        def cell(self, cell):
            wanted = re.search(r'^show_doc\(([\w.]+)\)', cell.source or '', re.M)
            if wanted and cell.cell_type == 'code':
                text = signature(wanted[1], self.module, places)
                data = {'text/markdown': text.splitlines(True)}
                cell.outputs = [dict(output_type='display_data', metadata={}, data=data)]

    class Docs(FilterDefaults):
        def base_procs(self):
            own = {
                exec_show_docs: show_without_running,
                add_links: lambda cell: linked_names(cell, lookup),
                add_fold: folded,
            }
            return [own.get(proc, proc) for proc in super().base_procs() if proc != mv_exports]

    for cell in nb.cells:
        if cell.cell_type == 'code':
            cell.outputs = without_bars(cell.outputs)
            cell.source = directives(cell.source, cell.outputs)
        if cell.cell_type == 'markdown':
            text = headings(quiz(cell.source), defined)
            # the words are for those who do not see the picture, no caption
            text = re.sub(r'^!\[(.+)\]\((.+)\)$', r'![](\2){fig-alt="\1"}', text, flags=re.M)
            text = BADGE.sub(r'[\1](\2){.colab}', text)
            text = cited(cross_reference(text, places, published(path), site), keys, site)
            cell.source = outside(scrolling(text), path.parent, repository)
    Docs()(nb)
    sources_last(nb)

    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = local(cell.source, pages, path.parent, site)
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            for form in {'text/markdown', 'text/html'} & set(data):
                text = local(''.join(data.pop(form)), pages, path.parent, site)
                text = as_markdown(text) if form == 'text/html' else scrolling(text)
                data['text/markdown'] = text.splitlines(True)
    write_nb(nb, target)


def sources(project=root):
    "The files of nbs/ that make the site, relative to it"
    folder = project / 'nbs'
    for path in sorted(folder.rglob('*')):
        path = path.relative_to(folder)
        hidden = any(part.startswith('.') or part == '__pycache__' for part in path.parts)
        made = path.parts[0] in ('_proc', '_docs') or path.name in ('nbdev.yml', 'sidebar.yml')
        if (folder / path).is_file() and not hidden and not made:
            yield path


def process(folder, project=root):
    "Everything in nbs/, as the renderer reads it, in `folder`"
    folder.mkdir(parents=True, exist_ok=True)
    places, keys = equations(project), references(project)
    paths = list(sources(project))
    pages = {published(path): path for path in paths if path.suffix in ('.ipynb', '.qmd')}
    for path in paths:
        source, target = project / 'nbs' / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.ipynb':
            document(source, target, places, keys, pages)
        else:
            shutil.copyfile(source, target)
    return folder


class Page(HTMLParser):
    """What can be wrong with one page

    Its links, anchors and pictures, and the text that a reader sees outside code."""

    # smalldocs writes the plain text of a heading in its table of contents, a nav
    silent = {'script', 'style', 'title', 'textarea', 'nav'}
    void = set('area base br col embed hr img input link meta source track wbr'.split())

    def __init__(self, path):
        super().__init__()
        self.ids = set()
        self.links = []  # of any element
        self.outward = []  # of <a>
        self.pictures = []  # (address, alt text)
        self.prose = []
        self.code = []
        self.texts = []  # prose and titles
        self.open = []  # (tag, whether it is a formula) of the elements around
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ('id', 'name') if attrs.get(key)}
        if tag in ('a', 'link', 'script', 'img'):
            self.links += [attrs[key] for key in ('href', 'src') if attrs.get(key)]
        if tag == 'a' and attrs.get('href'):
            self.outward.append(attrs['href'])
        if tag == 'img':
            self.pictures.append((attrs.get('src', '')[:60], attrs.get('alt')))
        if tag not in self.void:
            self.open.append((tag, 'math' in (attrs.get('class') or '').split()))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, text):
        tags = {tag for tag, _ in self.open}
        is_code = tags & {'pre', 'code'}
        if not is_code and not tags & {'script', 'style'}:
            self.texts.append(text)
        if any(formula for _, formula in self.open):
            return
        if is_code:
            self.code.append(text)
        elif not tags & self.silent:
            self.prose.append(text)


FORMULA = (
    r'\$\$|\\tag\{|\\(?:frac|mathrm|sum|hat|tilde|lambda|odot)\b'
    r'|\$[^$\s][^$\n]*[\\_^{][^$\n]*\$'
)
RAW = (  # where, what, how it is called, how much of it is shown; a pattern a line
    ('prose', r'^\s*#\|', 'raw directive', 60),
    ('prose', FORMULA, 'formula that is not rendered', 80),
    ('prose', r'^:::', 'raw fence', 60),
    ('texts', r'\{[#.][\w-]+[^}]*\}|fig-alt=', 'raw attribute', 60),
    ('code', r'^#\|\s', 'raw directive in code', 60),
)


def wrong_link(
    link,
    path,  # of the page that has it
    pages,  # `Page` by path
    site,  # folder of the pages
    names,  # which file stands for which published page, both relative to `site`
    address,  # where the site will be
):
    "What is wrong with a link, or None"
    if re.search(r'#L(?!\d)', link):
        return f'link to no line: {link}'
    if address and (link + '/').startswith(address + '/'):
        link = '/' + link[len(address) :].lstrip('/')
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None

    # the file that it leads to
    target, place = path, unquote(parts.path)
    if place.startswith('/'):
        target = site / (place.lstrip('/') or 'index.html')
    elif place:
        target = path.parent / place
    name = Path(os.path.relpath(target, site)).as_posix()
    target = site / names.get(name, name)

    if not target.exists():
        return f'link to {link}, which is not there'
    anchor = unquote(parts.fragment)
    if anchor and target.suffix == '.html' and anchor not in pages[target].ids:
        return f'link to {link}, but that page has no such anchor'
    return None


def faults(
    site,  # folder of the pages
    names=None,  # which file stands for which published page, both relative to `site`
    address='',  # where the site will be
):
    "Sentences about what is wrong in a rendered site"
    pages = {path: Page(path) for path in sorted(site.rglob('*.html'))}
    found = []
    for path, page in pages.items():
        wrong = [wrong_link(link, path, pages, site, names or {}, address) for link in page.links]
        for link in page.outward:
            leaves = address and (link + '/').startswith(address + '/')
            if leaves and path.stem != '404':  # which is served in place of a page of any folder
                wrong.append(f'link to {link}, which leaves a local build')
        for source, alt in page.pictures:
            if not (alt or '').strip():
                wrong.append(f'picture without alt text: {source}')
        for where, pattern, what, length in RAW:
            for text in getattr(page, where):
                if re.search(pattern, text, re.M):
                    wrong.append(f'{what}: {text.strip()[:length]}')
        name = path.relative_to(site).as_posix()
        found += [f'{name}: {sentence}' for sentence in wrong if sentence]
    return found


FONTS = re.compile(r'@import url\(https:[^)]*\);')  # as fonts.scss leaves them out
FORMULAS = re.compile(
    r'<link rel="stylesheet" href="https:[^"]*katex[^"]*">'
    r'(?:<script[^>]*katex[^>]*></script>)+'
)


def as_pandoc(up):  # the way to the site's own folder
    "How Pandoc writes KaTeX into the head of a page in Quarto's hands"
    return f"""<script src="{up}maths/katex.min.js"></script>
<script>document.addEventListener('DOMContentLoaded', () => {{
    for (const place of document.querySelectorAll('span.math'))
        katex.render(place.textContent.slice(2, -2), place,
            {{ displayMode: place.classList.contains('display') }}) }})</script>
<link rel="stylesheet" href="{up}maths/katex.min.css">"""


def stand_in(folder, project=root):
    """The site in pure Python

    smalldocs has no citations, compiles no Sass, and loads KaTeX from elsewhere: here is what
    Quarto makes of them.

    Returns the folder of its pages, which of them stands for which published page, and warnings."""
    from smalldocs import highlight
    from smalldocs.site import build

    # asked 200,000 times about some hundred words
    highlight.css_class = functools.cache(highlight.css_class)
    process(folder, project)
    with open(folder / 'references.qmd', 'a', encoding='utf-8') as page:
        page.writelines(f'\n[]{{#ref-{key}}} {key}\n' for key in references(project).values())
    site = build(folder, quiet=True)
    for path in site.out.rglob('*.html'):
        up = '../' * (len(path.relative_to(site.out).parts) - 1)
        text = path.read_text(encoding='utf-8')
        text = FORMULAS.sub(lambda _, up=up: as_pandoc(up), text)
        path.write_text(text, encoding='utf-8')
    for path in (site.out / 'site_libs' / 'themes').glob('*.css'):
        text = path.read_text(encoding='utf-8')
        path.write_text(FONTS.sub('', text), encoding='utf-8')
    names = {}
    for path in site.out.rglob('*.html'):
        path = path.relative_to(site.out)
        names[published(path)] = path.as_posix()
    # the other warnings say which of Quarto's options it leaves out
    broken = [warning for warning in site.warnings if 'broken link' in warning]
    return site.out, names, broken


def add_runtime(name, folder, words):
    "Files that come from npm; without a network they are left out, and a line says so"
    add = runpy.run_path(str(Path(__file__).with_name('runtime.py')))['add_runtime']
    try:
        add(name, folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        print(f'{words} is left out, and its button says so: {error}')
        return False
    return True


def add_search(
    site,  # folder of the pages
):
    "The files of the search, beside its page; without a network that page has a picture alone"
    from idkl_nb.page_explorers import STARTS
    from idkl_nb.page_files import write_page_files

    folder, words = site / STARTS['search'].state['folder'], 'The search in the page'
    if not add_runtime('onnxruntime-web', folder, words):
        return
    try:
        write_page_files(folder)
    except ImportError as error:
        shutil.rmtree(folder)
        print(f'{words} is left out, and its button says so: {error}')


def add_python(
    site,  # folder of the pages
):
    "What runs cells of Python in a page"
    add_runtime('pyodide', site / PYTHON['folder'], 'Python in the page')


def add_world(
    site,  # folder of the pages
):
    "The pictures of the world's explorer, a file for each person"
    from idkl_nb.explore_world import WorldFiles
    from idkl_nb.page_explorers import STARTS

    WorldFiles(site / STARTS['world'].state['folder']).execute()


def address(project=root):
    "Where the site will be"
    import yaml

    options = yaml.safe_load((project / '_quarto.yml').read_text(encoding='utf-8'))
    return options['website']['site-url']


def main():
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument('--check', action='store_true')
    given.add_argument('--stand-in', type=Path)
    given = given.parse_args()
    if given.check or given.stand_in:
        with tempfile.TemporaryDirectory() as scratch:
            site, names, warnings = stand_in(Path(scratch) / 'site')
            found = faults(site, names, address())
            found += [f'smalldocs: {warning}' for warning in warnings]
            if given.stand_in:
                shutil.copytree(site, given.stand_in, dirs_exist_ok=True)
                add_search(given.stand_in)
                add_world(given.stand_in)
                add_python(given.stand_in)
        print('\n'.join(found) or 'no fault found')
        sys.exit(bool(found))
    if not shutil.which('quarto'):
        sys.exit(ADVICE)
    shutil.rmtree(root / '_proc', ignore_errors=True)
    process(root / '_proc')
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=root / '_proc', check=True)
    shutil.rmtree(root / '_docs', ignore_errors=True)
    shutil.move(root / '_proc' / '_docs', root / '_docs')
    add_search(root / '_docs')
    add_world(root / '_docs')
    add_python(root / '_docs')
    print('The site is in _docs: open _docs/index.html')


if __name__ == '__main__':
    main()
