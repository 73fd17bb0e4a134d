"""The site: nbdev processes the notebooks, Quarto renders `_quarto.yml`. Nothing is executed: the outputs in the notebooks are what a reader sees.

`python .ci/site.py` builds `_docs` with Quarto. `python .ci/site.py --check` renders the same files with smalldocs, in pure Python, and looks for faults. `--stand-in FOLDER` keeps those pages."""

import argparse
import ast
import functools
import importlib
import inspect
import json
import os
import re
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
    f'Quarto is not installed: get {QUARTO} or a newer one from https://quarto.org/docs/get-started '
    '(or `python -m pip install quarto-cli`), then run `make docs` again.'
)


def published(path):
    "Address of a page below the site's own: nbdev leaves the number of a chapter out, `03b_` too"
    return path.with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', path.stem) + '.html').as_posix()


def equations(project=root):
    "Number of each of the paper's equations -> the page that quotes it; the chapters of the method tag them as the paper does"
    return {
        number: published(Path(path.name))
        for path in sorted((project / 'nbs').glob('[01]*.ipynb'))
        if 4 <= int(path.name[:2]) <= 11
        for number in re.findall(r'\\\\tag\{(\d+)\}', path.read_text(encoding='utf-8'))
    }


def cross_reference(text, places, page, address):
    "Markdown with an anchor before each tagged formula of this page, and a link on each number after `Eq.`"
    numbered = lambda found: re.sub(
        r'\d+',
        lambda n: f'[{n[0]}]({address}/{places[n[0]]}#eq-{n[0]})' if n[0] in places else n[0],
        found[0],
    )
    text = re.sub(r'\bEq\. \(?\d+\)?(?:(?:-|, | and | to )\(?\d+\b\)?)*', numbered, text)
    return re.sub(
        r'^(\$\$.*\\tag\{(\d+)\}\$\$)$',
        lambda found: (
            f'\n<a id="eq-{found[2]}"></a>\n\n{found[1]}\n'
            if places.get(found[2]) == page
            else found[0]
        ),
        text,
        flags=re.M,
    )


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
        return (
            match[0]
            if source is None
            else opening + Path(os.path.relpath(source, folder)).as_posix()
        )

    return re.sub(rf'(\]\(|href="){re.escape(site)}/?([^)#"\s]*)', to_source, text)


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


def document(source, target, places, pages):
    "Write a notebook as Quarto reads it: nbdev's directives done, equations linked, each exported symbol with signature, source link and code"
    from execnb.nbio import read_nb, write_nb
    from nbdev.config import get_config
    from nbdev.doclinks import NbdevLookup
    from nbdev.process import Processor
    from nbdev.processors import FilterDefaults, add_links, exec_show_docs
    from nbdev.showdoc import show_doc

    class show_without_running(Processor):
        "Fill the cells that nbdev adds from the installed module; no cell of the notebook is run for it"

        def begin(self):
            name = next(iter(re.findall(r'#\| *default_exp (\w+)', text)), None)
            self.module = name and importlib.import_module(f'idkl_nb.{name}')

        def cell(self, cell):
            wanted = (
                re.search(r'^show_doc\(([\w.]+)\)', cell.source or '', re.M)
                if cell.cell_type == 'code'
                else None
            )
            if wanted:
                cell.outputs = [
                    dict(
                        output_type='display_data',
                        metadata={},
                        data={'text/markdown': shown(wanted[1], self.module).splitlines(True)},
                    )
                ]

    def shown(name, module):
        found = module
        for part in name.split('.'):
            found = getattr(found, part)
        line = line_of(name, module)
        try:
            text = show_doc(found)._repr_markdown_()
        except (
            Exception
        ):  # fastcore cannot read the signature of a class whose __init__ is inherited
            path = (
                Path(inspect.getsourcefile(found))
                .relative_to(get_config().lib_path.parent)
                .as_posix()
            )
            link = f'{get_config().git_url}/blob/{get_config().branch}/{path}#L{line}'
            return f'---\n\n[source]({link}){{target="_blank" style="float:right; font-size:smaller"}}\n\n### {name}\n\n*{inspect.getdoc(found)}*'
        text = text.replace(
            '#LNone', f'#L{line}'
        )  # nbdev looks a line up by its bare name, and is given `module.name`
        return re.sub(
            r'^\*.*\*$', lambda doc: cross_reference(doc[0], places, None, site), text, flags=re.M
        )

    def link(cell):
        "nbdev's links of names in backticks; a method leads to its class, and a private name, which no page shows, nowhere"
        add_links(cell)
        if cell.cell_type != 'markdown' or not cell.source:
            return
        cell.source = re.sub(r'\[(`[^`\]]+`)\]\(https?://[^)#]+\.html#_[^)]*\)', r'\1', cell.source)
        cell.source = re.sub(
            r'(\[`[^`\]]+`\]\(https?://[^)#]+\.html#\w+)\.[^)]*\)', r'\1)', cell.source
        )
        cell.source = re.sub(
            r'(?<!\[)`([A-Z]\w+)\.\w+`(?!\])',
            lambda found: (
                f'[{found[0]}]({lookup.doc(found[1])})' if lookup.doc(found[1]) else found[0]
            ),
            cell.source,
        )

    class Docs(FilterDefaults):
        def base_procs(self):
            return [
                {exec_show_docs: show_without_running, add_links: link}.get(proc, proc)
                for proc in super().base_procs()
            ]

    lookup = NbdevLookup()
    text, nb, page = (
        source.read_text(encoding='utf-8'),
        read_nb(source),
        published(Path(source.name)),
    )
    site = get_config().doc_host + get_config().doc_baseurl
    defined = {
        name.lower()
        for name in re.findall(
            r'^(?:class|def) (\w+)',
            '\n'.join(cell.source for cell in nb.cells if cell.cell_type == 'code'),
            re.M,
        )
    }
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = re.sub(
                r'^##+ (\w+)$',
                lambda found: (
                    f'{found[0]} {{#about-{found[1].lower()}}}'
                    if found[1].lower() in defined
                    else found[0]
                ),
                cell.source,
                flags=re.M,
            )  # the name's own anchor is its signature
            cell.source = re.sub(
                r'^!\[(.+)\]\((.+)\)$', r'![](\2){fig-alt="\1"}', cell.source, flags=re.M
            )  # the text is for those who do not see the picture, no caption
            cell.source = re.sub(
                r'\]\(\.\./',
                f']({get_config().git_url}/blob/{get_config().branch}/',
                cross_reference(cell.source, places, page, site),
            )  # what is not in nbs/ is not on the site
        if cell.cell_type != 'code':
            continue
        lines = cell.source.splitlines()
        options = [
            re.sub(
                r'^(#\| *fig-alt: *)(?!")(.*)',
                lambda found: found[1] + json.dumps(found[2], ensure_ascii=False),
                line,
            )
            for line in lines
            if line.startswith('#|')
        ]  # YAML: a colon needs quotes
        if re.search(r'^(?:class|def|@)', cell.source, re.M):
            options = [
                re.sub(r'^#\| *export *$', '#| exports', line) for line in options
            ]  # a formula has its code beside it
        cell.source = '\n'.join(options + [line for line in lines if not line.startswith('#|')])
    Docs()(nb)

    folder = source.parent.relative_to(get_config().nbs_path)
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = local(cell.source, pages, folder, site)
        for output in cell.get('outputs', []):
            for form in {'text/markdown', 'text/html'} & set(output.get('data', {})):
                text = ''.join(output['data'][form])
                output['data'][form] = local(text, pages, folder, site).splitlines(True)
    write_nb(nb, target)


def process(folder, project=root):
    "Everything in nbs/, as the renderer reads it, in `folder`"
    folder.mkdir(parents=True, exist_ok=True)
    places = equations(project)
    pages = {
        published(path.relative_to(project / 'nbs')): path.relative_to(project / 'nbs')
        for path in (project / 'nbs').rglob('*')
        if path.suffix in ('.ipynb', '.qmd')
    }
    for source in sorted((project / 'nbs').rglob('*')):
        if (
            not source.is_file()
            or source.name in ('nbdev.yml', 'sidebar.yml')
            or any(
                part.startswith('.') or part in ('_proc', '_docs', '__pycache__')
                for part in source.relative_to(project).parts
            )
        ):
            continue
        target = folder / source.relative_to(project / 'nbs')
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == '.ipynb':
            document(source, target, places, pages)
        else:
            shutil.copyfile(source, target)
    return folder


class Page(HTMLParser):
    "What can be wrong with one page: its links, anchors and pictures, and the text that a reader sees outside code"

    silent = {
        'script',
        'style',
        'title',
        'textarea',
        'nav',
    }  # smalldocs writes the plain text of a heading in its table of contents
    void = {
        'area',
        'base',
        'br',
        'col',
        'embed',
        'hr',
        'img',
        'input',
        'link',
        'meta',
        'source',
        'track',
        'wbr',
    }

    def __init__(self, path):
        super().__init__()
        (
            self.ids,
            self.links,
            self.outward,
            self.pictures,
            self.prose,
            self.code,
            self.formulas,
            self.texts,
            self.open,
        ) = set(), [], [], [], [], [], [], [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get('id'):
            self.ids.add(attrs['id'])
        if tag == 'a' and attrs.get('name'):
            self.ids.add(attrs['name'])
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
        if not any(tag in ('script', 'style', 'pre', 'code') for tag, _ in self.open):
            self.texts.append(text)
        if any(math for _, math in self.open):
            self.formulas.append(text)
        elif any(tag in ('pre', 'code') for tag, _ in self.open):
            self.code.append(text)
        elif not any(tag in self.silent for tag, _ in self.open):
            self.prose.append(text)


def faults(site, names=None, address=''):
    "Sentences about what is wrong in a rendered site; `names` says which file stands for which published page, `address` is where it will be"
    names, pages, found = (
        names or {},
        {path: Page(path) for path in sorted(site.rglob('*.html'))},
        [],
    )
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()

        def fault(what):
            found.append(f'{name}: {what}')

        for link in page.links:
            if re.search(r'#L(?!\d)', link):
                fault(f'link to no line: {link}')
            if address and (link + '/').startswith(address + '/'):
                link = '/' + link[len(address) :].lstrip('/')
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (
                path
                if not parts.path
                else (
                    site / unquote(parts.path).lstrip('/')
                    if parts.path.startswith('/')
                    else path.parent / unquote(parts.path)
                ).resolve()
            )
            if target == site.resolve():
                target = site.resolve() / 'index.html'
            target = target.with_name(names.get(target.name, target.name))
            if not target.exists():
                fault(f'link to {link}, which is not there')
            elif (
                parts.fragment
                and target.suffix == '.html'
                and unquote(parts.fragment)
                not in pages[
                    site / target.relative_to(site.resolve())
                    if target.is_relative_to(site.resolve())
                    else target
                ].ids
            ):
                fault(f'link to {link}, but that page has no such anchor')
        for link in page.outward:
            leaves = address and (link + '/').startswith(address + '/')
            if leaves and path.stem != '404':  # which is served in place of a page of any folder
                fault(f'link to {link}, which leaves a local build')
        for source, alt in page.pictures:
            if not (alt or '').strip():
                fault(f'picture without alt text: {source}')
        for text in page.prose:
            if re.search(r'^\s*#\|', text, re.M):
                fault(f'raw directive: {text.strip()[:60]}')
            if re.search(
                r'\$\$|\\tag\{|\\(?:frac|mathrm|sum|hat|tilde|lambda|odot)\b|\$[^$\s][^$\n]*[\\_^{][^$\n]*\$',
                text,
            ):
                fault(f'formula that is not rendered: {text.strip()[:80]}')
            if re.search(r'^:::', text, re.M):
                fault(f'raw fence: {text.strip()[:60]}')
        for text in page.texts:
            if re.search(r'\{[#.][\w-]+[^}]*\}|fig-alt=', text):
                fault(f'raw attribute: {text.strip()[:60]}')
        for text in page.code:
            if re.search(r'^#\|\s', text, re.M):
                fault(f'raw directive in code: {text.strip()[:60]}')
    return found


def stand_in(folder, project=root):
    "The site in pure Python: the folder of its pages, and which of them stands for which published name"
    from smalldocs import highlight
    from smalldocs.site import build

    highlight.css_class = functools.cache(
        highlight.css_class
    )  # asked 200,000 times about some hundred words
    site = build(process(folder, project), quiet=True)
    names = {published(Path(path.name)): path.name for path in site.out.rglob('*.html')}
    return (
        site.out,
        names,
        [warning for warning in site.warnings if 'broken link' in warning],
    )  # the others say which of Quarto's options it leaves out


def address(project=root):
    "Where the site will be"
    import yaml

    return yaml.safe_load((project / '_quarto.yml').read_text(encoding='utf-8'))['website'][
        'site-url'
    ]


def main():
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument('--check', action='store_true')
    given.add_argument('--stand-in', type=Path)
    given = given.parse_args()
    if given.check or given.stand_in:
        with tempfile.TemporaryDirectory() as scratch:
            site, names, warnings = stand_in(Path(scratch) / 'site')
            found = faults(site, names, address()) + [
                f'smalldocs: {warning}' for warning in warnings
            ]
            if given.stand_in:
                shutil.copytree(site, given.stand_in, dirs_exist_ok=True)
        print('\n'.join(found) or 'no fault found')
        sys.exit(bool(found))
    if not shutil.which('quarto'):
        sys.exit(ADVICE)
    shutil.rmtree(root / '_proc', ignore_errors=True)
    process(root / '_proc')
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=root / '_proc', check=True)
    shutil.rmtree(root / '_docs', ignore_errors=True)
    shutil.move(root / '_proc' / '_docs', root / '_docs')
    print('The site is in _docs: open _docs/index.html')


if __name__ == '__main__':
    main()
