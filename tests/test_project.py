"The project as a whole: modules, notebooks, README and pins are in step with each other."

import ast
import configparser
import json
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

root = Path(__file__).resolve().parents[1]
nbs = root / 'nbs'
pages = {
    path.relative_to(nbs).as_posix(): json.loads(path.read_text(encoding='utf-8'))['cells']
    for path in sorted(nbs.rglob('[!.]*.ipynb'))
}


def source(cell):
    return ''.join(cell['source'])


code = {
    name: [cell for cell in cells if cell['cell_type'] == 'code' and source(cell).strip()]
    for name, cells in pages.items()
}


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of what nbdev reads and writes"
    folder = tmp_path_factory.mktemp('project')
    for name in ('settings.ini', 'setup.py', '_quarto.yml', 'README.md'):
        shutil.copy(root / name, folder)
    for name in ('nbs', 'idkl_nb'):
        shutil.copytree(
            root / name,
            folder / name,
            symlinks=True,
            ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'),
        )
    return folder


def nbdev(command, folder):
    subprocess.run(
        [Path(sys.executable).with_name(command)], cwd=folder, check=True, capture_output=True
    )


def texts(folder, pattern):
    return {
        path.relative_to(folder): path.read_text(encoding='utf-8')
        for path in sorted(folder.rglob(pattern))
    }


def test_modules_are_what_the_notebooks_export(copy):
    nbdev('nbdev_export', copy)
    assert texts(copy / 'idkl_nb', '*.py') == texts(root / 'idkl_nb', '*.py')


def test_notebooks_are_clean(copy):
    nbdev('nbdev_clean', copy)
    assert texts(copy / 'nbs', '*.ipynb') == texts(root / 'nbs', '*.ipynb')


@pytest.mark.parametrize('name', pages)
def test_no_cell_is_empty(name):
    assert all(source(cell).strip() for cell in pages[name])


@pytest.mark.parametrize('name', pages)
def test_running_a_notebook_writes_no_module(name):
    """A broken cell that was saved in one chapter must not reach the package by running another

    make export writes it, nothing else."""
    assert not [
        source(cell) for cell in code[name] if re.search(r'nbdev_export|nb_export', source(cell))
    ]


def tool(name, *words):
    "A program of .ci: what it printed, and nothing when all is well"
    done = subprocess.run(
        [sys.executable, root / '.ci' / f'{name}.py', *words], capture_output=True, text=True
    )
    return (done.stdout + done.stderr) if done.returncode else ''


graph = runpy.run_path(str(root / '.ci' / 'graph.py'))


def test_modules_make_no_circle_and_the_method_stands_alone():
    "python .ci/graph.py also draws the floors into CONTRIBUTING.md"
    assert not tool('graph', '--check')
    assert 'model' in graph['imports']()['variants']  # whose import is wrapped


@pytest.mark.parametrize(
    'edges, sentence',
    [
        (dict(common=set(), tgsa={'common', 'fast'}, fast={'common'}), None),
        (dict(common={'world'}, world={'common'}), 'a circle: '),
        (
            dict(tgsa={'pictures'}, pictures=set()),
            'tgsa belongs to the method and imports pictures',
        ),
    ],
)
def test_faults_of_the_graph_are_found(edges, sentence):
    found = graph['faults'](edges)
    assert not found if sentence is None else found and found[0].startswith(sentence)


def test_each_notebook_exports_the_module_of_its_name():
    exported = {}
    for name, cells in code.items():
        found = re.search(r'#\| *default_exp (\w+)', source(cells[0]))
        if found:
            exported[found[1]] = re.sub(r'^\d+_', '', Path(name).stem)
    assert set(exported) == {path.stem for path in (root / 'idkl_nb').glob('[a-z]*.py')}
    assert exported == {module: module for module in exported}


def test_notebooks_tests_and_tools_are_formatted_and_linted():
    "ruff format and ruff check --fix mend most of it; .ruff.toml says why a rule is off"
    ruff = [Path(sys.executable).with_name('ruff')]
    for words in (['format', '--check', '-q'], ['check', '-q', '--output-format', 'concise']):
        done = subprocess.run([*ruff, *words], cwd=root, capture_output=True, text=True)
        assert not done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize('name', pages)
def test_links_between_pages_lead_somewhere(name):
    page = root / 'nbs' / name
    for cell in pages[name]:
        if cell['cell_type'] == 'markdown':
            for target in re.findall(r'\]\((?!\w+:|#)([^)#\s]+)', source(cell)):
                assert (page.parent / target).exists(), target


def test_a_module_imports_what_it_uses():
    "What its notebook shows beside it is imported there, in a cell that is not exported"
    words = 'check --isolated -q --select F401 --exclude _modidx.py --output-format concise idkl_nb'
    ruff = Path(sys.executable).with_name('ruff')
    done = subprocess.run([ruff, *words.split()], cwd=root, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize('name', pages)
def test_outputs_are_fit_to_publish(name):
    outputs = [out for cell in code[name] for out in cell['outputs']]
    assert not [out for out in outputs if out['output_type'] == 'error']
    if name not in ('index.ipynb', 'contents.ipynb'):  # which compute nothing for the reader
        assert outputs, 'a reader of the page would see no result'
    assert not any(
        'application/vnd.jupyter.widget-view+json' in out.get('data', {}) for out in outputs
    ), 'a widget without a kernel shows nothing'
    printed = '\n'.join(
        ''.join(text)
        for out in outputs
        for text in (out.get('text', ''), out.get('data', {}).get('text/plain', ''))
    )
    assert not re.search(r'(?<![\w.:/])/(?:[\w.-]+/){2,}[\w.-]+', printed), (
        'a path of somebody\'s machine'
    )
    assert (root / 'nbs' / name).stat().st_size < 1_500_000


@pytest.mark.parametrize('name', pages)
def test_every_figure_has_a_text(name):
    for cell in code[name]:
        if any('image/png' in out.get('data', {}) for out in cell['outputs']):
            assert '#| fig-alt:' in source(cell), source(cell)[:80]


IMPORTS = """
import json, sys

import idkl_nb.world
torch_with_the_world = 'torch' in sys.modules

import idkl_nb.training, idkl_nb.train_command, idkl_nb.embed_command
needless_for_training = [name for name in {not_needed} if name in sys.modules]

import {modules}
from idkl_nb.figures import COLOURS, LOOK
print(json.dumps(dict(
    torch_with_the_world=torch_with_the_world, needless_for_training=needless_for_training,
    colours=list(COLOURS), look=LOOK,
)))
"""
NOT_NEEDED = (
    'matplotlib',
    'seaborn',
    'sklearn',
    'captum',
    'ipywidgets',
    'faiss',
    'IPython',
    'nbdev',
    'fastcore',
    'papermill',
)


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    """What a process says that imports the package from anywhere

    The world first, then training, then every module."""
    modules = ', '.join(
        f'idkl_nb.{path.stem}' for path in sorted((root / 'idkl_nb').glob('[a-z]*.py'))
    )
    script = IMPORTS.format(modules=modules, not_needed=NOT_NEEDED)
    done = subprocess.run(
        [sys.executable, '-c', script],
        cwd=tmp_path_factory.mktemp('anywhere'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_world_needs_no_torch(imported):
    assert not imported['torch_with_the_world']


def test_training_imports_nothing_that_draws(imported):
    assert not imported['needless_for_training']


def test_notebooks_and_package_draw_alike(imported):
    import matplotlib

    look = matplotlib.rc_params_from_file(root / 'nbs' / 'matplotlibrc', use_default_template=False)
    assert {name: look[name] for name in imported['look']} == dict(
        matplotlib.RcParams(imported['look'])
    )
    assert [colour['color'] for colour in look['axes.prop_cycle']] == imported['colours']


def test_every_notebook_opens_in_colab():
    "Badge and install cell stand after the title"
    assert not tool('colab', '--check')


def test_the_install_cell_asks_for_extras_that_are_there():
    install = next(source(cell) for cell in code['index.ipynb'] if 'find_spec' in source(cell))
    assert (
        re.findall(r'\[(\w+)\]', install) == ['chapters']
        and 'chapters_requirements' in (root / 'settings.ini').read_text()
    )
    assert settings()['git_url'] in install


modules = {
    path.stem: path.read_text(encoding='utf-8')
    for path in sorted((root / 'idkl_nb').glob('[a-z]*.py'))
}


def lines_of_code(text):
    "Without empty lines and those that nbdev writes: marks of cells, and `__all__`"
    own = re.sub(r'^# %% auto.*?(?=^# %%)', '', text, flags=re.S | re.M)
    made = ('# %%', '# AUTOGENERATED')
    return [line for line in own.splitlines() if line.strip() and not line.startswith(made)]


def bodies(text):
    "Each function: its name, and its lines below signature and docstring"
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[ast.get_docstring(node) is not None :]
            yield node.name, lines[first[0].lineno - 1 : node.end_lineno] if first else []


@pytest.mark.parametrize('name', modules)
def test_a_module_can_be_read(name):
    text = modules[name]
    code = lines_of_code(text)
    assert len(code) <= 250, f'{len(code)} lines of code; is it one idea?'

    limit = {line: 120 if line.endswith('# noqa: E501') else 100 for line in code}
    assert not [line for line in code if len(line) > limit[line]]

    solid = [name for name, lines in bodies(text) if len(lines) >= 12 and all(lines)]
    assert not solid, 'functions of 12 lines and more without an empty line between their stages'


def test_the_method_is_formulas_and_not_guards():
    "Types say what comes in; what they can't say is checked where data enters"
    method = [text for name, text in modules.items() if name in graph['METHOD']]
    guards = sum(
        isinstance(node, (ast.Raise, ast.Assert))
        for text in method
        for node in ast.walk(ast.parse(text))
    )
    assert guards < 0.015 * sum(len(lines_of_code(text)) for text in method)


def test_readme_is_written_from_the_index():
    subprocess.run([sys.executable, root / '.ci' / 'readme.py', '--check'], check=True)


def said(name):
    "The prose of a page"
    return '\n\n'.join(source(cell) for cell in pages[name] if cell['cell_type'] == 'markdown')


def test_measured_results_are_those_of_the_last_notebook():
    printed = ''.join(
        ''.join(out.get('text', ''))
        for cell in code['13_end_to_end.ipynb']
        for out in cell['outputs']
    )
    rows = re.findall(r'^ *(?:L_b|IDKL) +(?:infrared|visible) to .*$', said('measured.ipynb'), re.M)
    assert len(rows) == 8  # two methods, two directions, without and with re-ranking
    for row in rows:
        assert row in printed, row


def test_a_stranger_learns_from_the_readme_how_to_begin():
    text = (root / 'README.md').read_text(encoding='utf-8')
    for words in ('git clone ', 'make run ', 'make test ', 'IDKL minus `L_b`', '## Ethics'):
        assert words in text, words
    places = re.findall(r'\]\((?!https?:|#)([^)#]+)', text)
    assert len(places) > 20 and not [place for place in places if not (root / place).exists()]


def test_the_first_button_opens_the_tour():
    _, intro = said('index.ipynb').split('\n\n', 1)
    badge, link = re.findall(r'\]\(([^()]*\.ipynb)\)', intro)[:2]
    assert badge.endswith('/blob/main/nbs/00_tour.ipynb') and link == '00_tour.ipynb'


readme = runpy.run_path(str(root / '.ci' / 'readme.py'))


@pytest.mark.parametrize(
    'line, minutes, before',
    [
        ('*9 minutes to read, 300 s to run. Before: [a](02_metrics.ipynb), b.*', '9', None),
        ('*4 minutes to read, 1 s to run.*', '4', ''),
        ('About 9 minutes to read.', None, None),
    ],
)
def test_the_head_of_a_page_is_understood(line, minutes, before):
    found = readme['HEAD'].search(f'[![badge](x)](y)\n\n{line}\n\nText.')
    assert (found and found[1]) == minutes
    if found:
        assert found[2] == ('[a](02_metrics.ipynb), b' if before is None else None)


def test_contents_list_every_page_once():
    links = re.findall(r'^\| \[.*?\]\(([^)]*)\)', said('contents.ipynb'), re.M)
    assert sorted(links) == sorted({*pages, 'references.qmd'} - {'index.ipynb', 'contents.ipynb'})


def test_the_map_has_every_chapter_after_what_it_needs():
    names = re.findall(
        r'^\| \[(.+?)\]\(([\d\w]+\.ipynb)\) \| .* \| (.*) \|$', said('index.ipynb'), re.M
    )
    assert [file for _, file, _ in names] == [name for name in pages if re.match(r'\d', name)]
    before = {'-'}
    for name, _, needs in names:
        assert before.issuperset(needs.split(', ')), name
        before.add(name)


def test_sidebar_lists_every_chapter():
    listed = (root / '_quarto.yml').read_text()
    for name in pages:
        assert name in listed, name


def settings():
    parser = configparser.ConfigParser(delimiters=['='])
    parser.read(root / 'settings.ini')
    return parser['DEFAULT']


def pins():
    return [
        Requirement(line)
        for line in (root / 'constraints.txt').read_text().splitlines()
        if not line.startswith('#')
    ]


def test_installed_versions_are_the_pinned_ones():
    wrong = {}
    for pin in pins():
        if pin.marker and not pin.marker.evaluate():
            continue
        try:
            installed = version(pin.name)
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        if not pin.specifier.contains(installed):
            wrong[pin.name] = installed
    assert not wrong


@pytest.mark.parametrize('minor', range(11, 15))
@pytest.mark.parametrize('system', ('linux', 'darwin', 'win32'))
def test_every_requirement_is_pinned_once_for_each_python(minor, system):
    here = dict(
        python_version=f'3.{minor}',
        python_full_version=f'3.{minor}.9',
        sys_platform=system,
        os_name='nt' if system == 'win32' else 'posix',
    )
    names = [pin.name for pin in pins() if pin.marker is None or pin.marker.evaluate(here)]
    assert len(names) == len(set(names))
    needed = ' '.join(
        value for key, value in settings().items() if key.endswith('requirements')
    ).split()
    assert not {Requirement(line).name for line in needed} - set(names)


def test_supported_pythons_are_the_same_everywhere():
    oldest, newest = settings()['min_python'], settings()['max_python']
    minors = range(int(oldest.split('.')[1]), int(newest.split('.')[1]) + 1)
    said = f'Python {oldest} to {newest}'
    for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'):
        assert said in (root / name).read_text(encoding='utf-8'), name
    assert (
        str([f'3.{minor}' for minor in minors]).replace("'", '"')
        in (root / '.github' / 'workflows' / 'test.yml').read_text()
    )


@pytest.mark.parametrize(
    'version, words, sentence',
    [
        (
            (3, 10, 13),
            ['uv', ''],
            'Python 3.11 to 3.14 is needed, for which constraints.txt holds versions; '
            'this is 3.10. Name another: make setup PYTHON=python3.14',
        ),
        ((3, 15, 0), ['uv', ''], 'this is 3.15'),
        ((3, 12, 0), ['conda', ''], 'INSTALLER is uv or pip, not conda'),
        ((3, 12, 0), ['pip', 'cuda'], 'TORCH is cpu, or left empty, not cuda'),
        ((3, 11, 0), ['uv', 'cpu'], None),
        ((3, 14, 2), ['pip', ''], None),
    ],
)
def test_setup_refuses_in_a_sentence(version, words, sentence):
    complaint = runpy.run_path(str(root / '.ci' / 'python.py'))['complaint'](version, *words)
    assert (
        complaint is None if sentence is None else sentence in complaint and '\n' not in complaint
    )
