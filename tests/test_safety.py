"What SECURITY.md promises: no code in a file is run, no shell, no network, nothing of the machine."

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from forks import Forked

from idkl_nb.common_weights import PACKAGED
from idkl_nb.world import World
from idkl_nb.writers import write_sysu

root = Path(__file__).resolve().parents[1]
modules = sorted((root / 'idkl_nb').glob('[a-z]*.py'))
environment = os.environ | dict(OMP_NUM_THREADS='1')


# No code in a file is run

FORBIDDEN_IMPORTS = {
    'pickle',
    'cPickle',
    'dill',
    'cloudpickle',
    'joblib',
    'marshal',
    'shelve',
    'subprocess',
    'pty',
    'socket',
    'ssl',
    'ftplib',
    'smtplib',
    'requests',
    'httpx',
    'aiohttp',
    'http',
    'urllib.request',
    'ctypes',
    'code',
    'codeop',
}
FORBIDDEN_CALLS = {
    'eval',
    'exec',
    'compile',
    '__import__',
    'os.system',
    'os.popen',
    'os.startfile',
    'pd.read_pickle',
    'pandas.read_pickle',
    'np.fromregex',
    'loadmat',
    'yaml.load',
    'torch.hub.load',
    'tempfile.mktemp',
}
NEEDS = {
    'torch.load': ('weights_only', True),
    'np.load': ('allow_pickle', False),
    'numpy.load': ('allow_pickle', False),
}


def dangers(source):
    "What in this code could run somebody else's, or reach the network"

    def dotted(node):
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f'{dotted(node.value)}.{node.attr}'
        return '?'

    def imported(node):
        names = [alias.name for alias in getattr(node, 'names', [])]
        if isinstance(node, ast.Import):
            return names
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            return [node.module, *(f'{node.module}.{name}' for name in names)]
        return []

    findings = []
    for node in ast.walk(ast.parse(source)):
        for name in imported(node):
            if {name, name.split('.')[0]} & FORBIDDEN_IMPORTS:
                findings.append(f'import {name}')
        if not isinstance(node, ast.Call):
            continue

        name = dotted(node.func)
        words = {k.arg: getattr(k.value, 'value', None) for k in node.keywords}
        if name in FORBIDDEN_CALLS or name.startswith(('os.exec', 'os.spawn', 'pickle.')):
            findings.append(name)
        if words.get('shell'):
            findings.append(f'{name} with a shell')
        word, value = NEEDS.get(name, (None, None))
        if word and words.get(word) is not value:
            findings.append(f'{name} without {word}={value}')
    return findings


@pytest.mark.parametrize('module', modules, ids=lambda path: path.stem)
def test_no_module_runs_what_it_reads(module):
    # the one place that reads what MATLAB wrote
    allowed = ['loadmat'] if module.stem == 'mat_files' else []
    assert dangers(module.read_text(encoding='utf-8')) == allowed


@pytest.mark.parametrize(
    'code',
    [
        'import pickle',
        'from pickle import load',
        'import urllib.request',
        'from urllib import request',
        'torch.load(f)',
        'torch.load(f, weights_only=False)',
        'torch.load(f, weights_only=safe)',
        'np.load(f)',
        'np.load(f, allow_pickle=True)',
        'run(x, shell=True)',
        'eval(x)',
        'os.system(x)',
        'os.execvp(x, y)',
        'def f():\n  class A:\n    a = [exec(z) for z in x]',
        'pd.read_pickle(f)',
        'loadmat(f)',
    ],
)
def test_the_search_finds(code):
    assert len(dangers(code)) >= 1


def test_the_search_lets_pass():
    assert (
        dangers(
            'import torch\nfrom urllib.error import URLError\n'
            'torch.load(f, weights_only=True); np.load(f, allow_pickle=False)\n'
            'model.eval(); self.model.compile()'
        )
        == []
    )


# No network unless asked

NETWORK = '''
import os, socket, sys
def refuse(*args, **kwargs): raise ConnectionError('the network was asked for')
for name in ('connect', 'connect_ex', 'sendto', 'sendmsg'): setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
'''


def forked(code, folder, **variables):
    "Exit code and what was printed, of this code in a process that has imported the package"
    before = f'import os; os.environ.update({variables!r})\n'
    process = Forked(before + NETWORK + code, folder / 'printed.txt')
    return process.wait(300), (folder / 'printed.txt').read_text()


def python(code, *words):
    return subprocess.run(
        [sys.executable, '-c', NETWORK + code, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def test_everything_works_without_a_network(tmp_path):
    "Importing every module, drawing a world, training, scoring, embedding"
    done = python(
        f'''
import importlib
for name in {[path.stem for path in modules]!r}: importlib.import_module(f'idkl_nb.{{name}}')
from idkl_nb.train_command import train_main
from idkl_nb.embed_command import embed_main
os.chdir(sys.argv[1])
train_main(['--preset', 'smoke', '--epochs', '1', '--batches', '1', '--out', 'run'])
embed_main(['--images', 'run/data', '--run', 'run/model', '--out', 'f.npz'])
''',
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'run' / 'model' / 'card.md').is_file() and (tmp_path / 'f.npz').is_file()


def test_the_network_is_asked_for_by_name_only(tmp_path):
    "ImageNet weights are a download that somebody chose; it fails in words"
    code, printed = forked(
        "from idkl_nb.backbone import DualBranch; DualBranch('resnet18', weights='IMAGENET1K_V1')",
        tmp_path,
        TORCH_HOME=str(tmp_path),
    )
    assert (
        code == 1
        and re.search('could not be downloaded .*the network was asked for', printed)
        and 'give the path of that file ' in printed
        and '--model.weights' in printed
    )


# Nothing of the machine in what a run leaves


def test_a_run_tells_nothing_about_the_machine(tmp_path):
    "Neither paths, nor who computed, nor the environment; but a path given as a setting is one"
    private = tmp_path / 'private-folder-of-somebody'
    data = write_sysu(World(height=32, width=16), private / 'people', [1, 2], [3], [4, 5], images=8)
    start = Path(shutil.copy(PACKAGED['narrow']['WORLD_V1'], private / 'start.safetensors'))
    words = [
        '--preset',
        'smoke',
        '--epochs',
        '1',
        '--batches',
        '1',
        '--P',
        '2',
        '--root',
        data,
        '--out',
        private / 'runs' / 'run',
        '--model.weights',
        start,
    ]
    code, printed = forked(
        f'from idkl_nb.train_command import train_main; train_main({list(map(str, words))})',
        tmp_path,
        HF_TOKEN='token-that-nobody-shall-see',
        WANDB_API_KEY='token-that-nobody-shall-see',
    )
    assert code == 0, printed[-2000:]
    secrets = [
        str(tmp_path),
        'private-folder-of-somebody',
        'token-that-nobody-shall-see',
        str(Path.home()) + '/',
        str(root),
        sys.prefix,
    ] + [name for name in [socket.gethostname()] if len(name) > 5]
    left = [path for path in (private / 'runs').rglob('*') if path.is_file()]
    assert {path.name for path in left} >= {
        'card.md',
        'config.json',
        'log.jsonl',
        'scores.json',
        'features.safetensors',
        'weights.safetensors',
        'cache.json',
        'images.npy',
    }
    told = {
        (path.name, secret)
        for path in left
        for secret in secrets
        for form in (secret.encode(), secret.encode('utf-32-le'))
        if form in path.read_bytes()
    }
    assert {name for name, _ in told} <= {'config.json'}
    config = json.loads((private / 'runs' / 'run' / 'model' / 'config.json').read_text())
    assert config['config']['model'].pop('weights') == str(start)
    assert not [secret for secret in secrets if secret in json.dumps(config)]
    card = (private / 'runs' / 'run' / 'model' / 'card.md').read_text()
    assert "`model.weights` = `'start.safetensors'`" in card


def test_the_card_says_what_it_is_for(tmp_path):
    from idkl_nb.cards import TERMS, USE

    for words in (
        'education and research',
        'surveillance technology',
        'never a proof of identity',
        'Do not use',
        'usually far lower',
    ):
        assert words in USE
    published = {'SYSU-MM01', 'RegDB', 'LLCM'}
    assert set(TERMS) == published | {'own', 'synthetic'}
    assert all('the same holds for them' in TERMS[name] for name in published)


def test_the_promises_are_written_down():
    text = (root / 'SECURITY.md').read_text(encoding='utf-8')
    for test in re.findall(r'`(tests/\S+?)`', text):
        assert (root / test).is_file(), test
    for word in ('Report', 'pickle', 'network', 'shell', 'What is not promised'):
        assert word in text
