"""The site: nbdev processes the notebooks, Quarto renders `_quarto.yml`

Nothing is executed: the outputs in the notebooks are what a reader sees.

`python .ci/site.py` builds `_docs` with Quarto. `python .ci/site.py --check` renders the same files
with smalldocs, in pure Python, and looks for faults. `--stand-in FOLDER` keeps those pages."""

import argparse
import ast
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


@functools.cache
def parsed(path):
    return ast.parse(Path(path).read_text(encoding='utf-8'))


def line_of(
    name,  # of a function or class of the module, or `Class.method`
    module,
):
    "The line of the module's file, from 1, where the definition begins"
    scope = parsed(module.__file__)
    for part in name.split('.'):
        scope = next(node for node in ast.walk(scope) if getattr(node, 'name', None) == part)
    return scope.lineno


def signature(
    name,  # of a function or class of the module, or `Class.method`
    module,
    places,  # page by number of an equation
):
    "Markdown with source link, signature and description"
    from nbdev.config import get_config
    from nbdev.showdoc import show_doc

    config = get_config()
    found, line = module, line_of(name, module)
    for part in name.split('.'):
        found = getattr(found, part)
    try:
        text = show_doc(found)._repr_markdown_()
    except Exception:  # fastcore cannot read the signature of a class with inherited __init__
        file = Path(inspect.getsourcefile(found)).relative_to(config.lib_path.parent).as_posix()
        link = f'{config.git_url}/blob/{config.branch}/{file}#L{line}'
        style = '{target="_blank" style="float:right; font-size:smaller"}'
        return f'---\n\n[source]({link}){style}\n\n### {name}\n\n*{inspect.getdoc(found)}*'

    # nbdev looks a line up by its bare name, and is given `module.name`
    text = text.replace('#LNone', f'#L{line}')
    site = config.doc_host + config.doc_baseurl
    return re.sub(
        r'^\*.*\*$', lambda doc: cross_reference(doc[0], places, None, site), text, flags=re.M
    )


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


def directives(
    source,  # of a code cell
):
    "The cell with its options at the top, as Quarto wants them"

    def quoted(match):  # YAML: a colon needs quotes
        return match[1] + json.dumps(match[2], ensure_ascii=False)

    lines = source.splitlines()
    options = [line for line in lines if line.startswith('#|')]
    options = [re.sub(r'^(#\| *fig-(?:alt|cap): *)(?!")(.*)', quoted, line) for line in options]
    if re.search(r'^(?:class|def|@)', source, re.M):  # a formula has its code beside it
        options = [re.sub(r'^#\| *export *$', '#| exports', line) for line in options]
    return '\n'.join(options + [line for line in lines if not line.startswith('#|')])


def document(
    source,  # a notebook
    target,  # where it is written
    places,  # page by number of an equation
    pages,  # published address of each page -> its source
):
    """Write a notebook as Quarto reads it

    nbdev's directives are done, equations linked, and each exported symbol has its signature, a
    link to its source and its code."""
    from execnb.nbio import read_nb, write_nb
    from nbdev.config import get_config
    from nbdev.doclinks import NbdevLookup
    from nbdev.process import Processor
    from nbdev.processors import FilterDefaults, add_links, exec_show_docs

    config, lookup = get_config(), NbdevLookup()
    site = config.doc_host + config.doc_baseurl
    repository = f'{config.git_url}/blob/{config.branch}'
    path = source.relative_to(config.nbs_path)
    nb = read_nb(source)
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
            }
            return [own.get(proc, proc) for proc in super().base_procs()]

    for cell in nb.cells:
        if cell.cell_type == 'code':
            cell.source = directives(cell.source)
        if cell.cell_type == 'markdown':
            text = headings(cell.source, defined)
            # the words are for those who do not see the picture, no caption
            text = re.sub(r'^!\[(.+)\]\((.+)\)$', r'![](\2){fig-alt="\1"}', text, flags=re.M)
            text = cross_reference(text, places, published(path), site)
            cell.source = outside(text, path.parent, repository)
    Docs()(nb)

    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = local(cell.source, pages, path.parent, site)
        for output in cell.get('outputs', []):
            for form in {'text/markdown', 'text/html'} & set(output.get('data', {})):
                text = ''.join(output['data'][form])
                output['data'][form] = local(text, pages, path.parent, site).splitlines(True)
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
    places = equations(project)
    paths = list(sources(project))
    pages = {published(path): path for path in paths if path.suffix in ('.ipynb', '.qmd')}
    for path in paths:
        source, target = project / 'nbs' / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.ipynb':
            document(source, target, places, pages)
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


def stand_in(folder, project=root):
    """The site in pure Python

    The folder of its pages, which of them stands for which published page, and warnings."""
    from smalldocs import highlight
    from smalldocs.site import build

    # asked 200,000 times about some hundred words
    highlight.css_class = functools.cache(highlight.css_class)
    site = build(process(folder, project), quiet=True)
    names = {}
    for path in site.out.rglob('*.html'):
        path = path.relative_to(site.out)
        names[published(path)] = path.as_posix()
    # the other warnings say which of Quarto's options it leaves out
    broken = [warning for warning in site.warnings if 'broken link' in warning]
    return site.out, names, broken


def add_search(
    site,  # folder of the pages
):
    "The files of the search, beside its page; without a network that page has a picture alone"
    from idkl_nb.page_explorers import STARTS
    from idkl_nb.page_files import write_page_files

    folder = site / STARTS['search'].state['folder']
    add_runtime = runpy.run_path(str(Path(__file__).with_name('runtime.py')))['add_runtime']
    try:
        add_runtime(folder)
        write_page_files(folder)
    except (OSError, ImportError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        print(f'The search in the page is left out, and its button says so: {error}')


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
    print('The site is in _docs: open _docs/index.html')


if __name__ == '__main__':
    main()
