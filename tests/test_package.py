"What `pip install idkl_nb` brings: the files, the commands, nothing that only notebooks need"

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

root = Path(__file__).resolve().parents[1]
config = ConfigParser(delimiters=['='])
config.read(root / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
modules = {f'idkl_nb/{path.name}' for path in (root / 'idkl_nb').glob('*.py')}
data = {
    'idkl_nb/py.typed',
    *(
        f'idkl_nb/{folder}/{path.name}'
        for folder in ('weights', 'modules')
        for path in (root / 'idkl_nb' / folder).iterdir()
    ),
}
COMMANDS = ('train', 'embed', 'evaluate', 'check', 'export', 'publish', 'search')

HELP = """from importlib.metadata import distribution
for script in distribution('idkl_nb').entry_points:
    if script.group != 'console_scripts': continue
    import sys
    sys.argv = [script.name, '--help']
    try: script.load()()
    except SystemExit as end: assert not end.code, script.name"""


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "Wheel and sdist, built from a copy"
    copy = tmp_path_factory.mktemp('build') / 'idkl_nb'
    shutil.copytree(
        root,
        copy,
        symlinks=True,
        ignore=shutil.ignore_patterns(
            '.git',
            '.venv',
            'runs',
            '_docs',
            '_proc',
            '__pycache__',
            '*.egg-info',
            'build',
            'dist',
            '.hypothesis',
            '.pytest_cache',
            'data',
            '.ipynb_checkpoints',
        ),
    )
    (copy / 'idkl_nb' / '__pycache__').mkdir()
    (copy / 'idkl_nb' / '__pycache__' / 'world.cpython-311.pyc').touch()  # must not get in
    subprocess.run(
        [sys.executable, '-m', 'build', '--no-isolation', '--outdir', copy / 'dist', copy],
        check=True,
        capture_output=True,
    )
    (wheel,) = (copy / 'dist').glob('*.whl')
    (sdist,) = (copy / 'dist').glob('*.tar.gz')
    return wheel, sdist


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
    "The wheel beside links to its requirements; the environment of a Python that sees nothing else"
    folder, needed = tmp_path_factory.mktemp('installed'), tmp_path_factory.mktemp('needed')
    subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'install',
            '--disable-pip-version-check',
            '-q',
            '--no-index',
            '--no-deps',
            '--target',
            folder,
            built[0],
        ],
        check=True,
    )
    queue, seen = cfg['requirements'].split(), set()
    while queue:
        wanted = Requirement(queue.pop())
        if (
            wanted.name.lower() in seen
            or wanted.marker
            and not wanted.marker.evaluate(dict(extra=''))
        ):
            continue
        seen.add(wanted.name.lower())
        found = distribution(wanted.name)
        queue += found.requires or []
        for top in {Path(file).parts[0] for file in found.files or []} - {'..', '__pycache__'}:
            if not (needed / top).exists():
                (needed / top).symlink_to(found.locate_file(top))
    return folder, dict(
        {key: value for key, value in os.environ.items() if key not in ('PYTHONPATH', 'IDKL_RUN')},
        PYTHONPATH=f'{folder}{os.pathsep}{needed}',
        OMP_NUM_THREADS='1',
    )


def run(installed, args, cwd):
    done = subprocess.run(
        [sys.executable, '-S', *map(str, args)],
        cwd=cwd,
        env=installed[1],
        capture_output=True,
        text=True,
    )  # -S: without this environment's own packages
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_wheel_holds_what_it_must_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    info = f'idkl_nb-{cfg["version"]}.dist-info/'
    assert {name for name in names if not name.startswith(info)} == modules | data
    assert {name.removeprefix(info) for name in names if name.startswith(info)} == {
        'METADATA',
        'WHEEL',
        'RECORD',
        'entry_points.txt',
        'top_level.txt',
        'licenses/LICENSE',
    }


def test_the_sdist_holds_what_it_must_and_nothing_else(built):
    top = f'idkl_nb-{cfg["version"]}/'
    names = {member.name.removeprefix(top) for member in tarfile.open(built[1]) if member.isfile()}
    rest = {name for name in names - modules - data if not name.startswith('idkl_nb.egg-info/')}
    assert modules | data <= names
    assert rest == {
        'PKG-INFO',
        'setup.py',
        'setup.cfg',
        'settings.ini',
        'MANIFEST.in',
        'README.md',
        'LICENSE',
        'CHANGELOG.md',
        'CITATION.cff',
    }


def test_metadata(built):
    archive = zipfile.ZipFile(built[0])
    read = lambda name: archive.read(f'idkl_nb-{cfg["version"]}.dist-info/{name}').decode()
    assert {
        line.split(' = ')[0]
        for line in read('entry_points.txt').splitlines()
        if line.startswith('idkl-')
    } == {f'idkl-{name}' for name in COMMANDS}
    plain = {
        Requirement(line.removeprefix('Requires-Dist: '))
        for line in read('METADATA').splitlines()
        if line.startswith('Requires-Dist: ') and 'extra ==' not in line
    }
    assert plain == set(map(Requirement, cfg['requirements'].split()))


def test_the_version_stands_in_one_place():
    told = {
        node.value.value
        for node in ast.parse((root / 'idkl_nb' / '__init__.py').read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == '__version__'
    }
    assert told == {cfg['version']}  # nbdev writes it there
    assert f'\nversion: {cfg["version"]}\n' in (root / 'CITATION.cff').read_text(encoding='utf-8')
    assert '## [Unreleased]' in (root / 'CHANGELOG.md').read_text(encoding='utf-8')


def test_workflows_run_what_the_project_supports():
    import yaml

    flows = {
        path.stem: yaml.safe_load(path.read_text(encoding='utf-8'))
        for path in (root / '.github' / 'workflows').glob('*.yml')
    }
    assert set(flows) == {'test', 'docs', 'release'}
    classifiers = [
        line for line in distribution('idkl_nb').metadata.get_all('Classifier') if '3.' in line
    ]
    assert [
        f'Programming Language :: Python :: {python}'
        for python in flows['test']['jobs']['suite']['strategy']['matrix']['python']
    ] == classifiers
    targets = {
        line.split(':')[0]
        for line in (root / 'Makefile').read_text().splitlines()
        if ': ' in line and not line.startswith(('\t', '#'))
    }
    for name, flow in flows.items():
        assert flow['permissions'] == {'contents': 'read'}, (
            name
        )  # more is asked for where it is used
        for step in [step for job in flow['jobs'].values() for step in job['steps']]:
            if step.get('run', '').startswith('make '):
                assert step['run'].split()[1] in targets
            if 'uses' in step:
                # a hash can't be moved to another version, as a tag can
                assert re.fullmatch('[0-9a-f]{40}', step['uses'].rpartition('@')[2]), step['uses']


def test_imports_and_help_need_no_more_than_the_runtime_requirements(installed, tmp_path):
    "Every module that doesn't draw is imported, and every command answers --help"
    graph = runpy.run_path(str(root / '.ci' / 'graph.py'))['imports']()
    # draw, look into networks, or read notebooks: they need extras, as does all that leans on them
    extra = re.compile(
        r'^(import|from) (matplotlib|seaborn|sklearn|nbformat|ipywidgets|anywidget)\b', re.M
    )
    sources = {name: (root / 'idkl_nb' / f'{name}.py').read_text() for name in graph}
    more = {name for name, source in sources.items() if extra.search(source)}
    while leaning := {name for name in graph if graph[name] & more} - more:
        more |= leaning
    assert not more & {'training', 'evaluate', 'embed_command', 'train_command', 'check'}
    imports = ';'.join(f'import idkl_nb.{name}' for name in sorted(set(graph) - more))
    told = run(installed, ['-c', f'{HELP}\n{imports}'], tmp_path)
    for name in COMMANDS:
        assert f'usage: idkl-{name}' in told


def test_a_run_outside_a_clone(installed, tmp_path):
    "The whole way from drawing to scores is walked"
    assert 'everything is in run' in run(
        installed,
        [installed[0] / 'bin' / 'idkl-train', '--preset', 'smoke', '--out', 'run'],
        tmp_path,
    )
    for name in (
        'model/config.json',
        'model/weights.safetensors',
        'model/card.md',
        'features.safetensors',
        'scores.json',
    ):
        assert (tmp_path / 'run' / name).stat().st_size, name


SHORT_NAMES = """import sys, idkl_nb
assert 'torch' not in sys.modules, 'torch is loaded before somebody asks for it'
assert set(idkl_nb.__all__) <= set(dir(idkl_nb))
for name in idkl_nb.__all__: getattr(idkl_nb, name)
try: idkl_nb.Idkl
except AttributeError as error: print(error)"""


def test_the_package_gives_its_main_names_when_they_are_asked_for(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', SHORT_NAMES], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "module 'idkl_nb' has no attribute 'Idkl'\n"
