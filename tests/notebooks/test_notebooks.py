"""Every notebook from top to bottom in a fresh kernel, and its figures.

IDKL_EXECUTED names a folder for the executed notebooks. Where it already holds one, the figures
must have the same pixels as there."""

import base64
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

folder = Path(__file__).resolve().parents[2] / 'nbs'
TIMED = {'speed.ipynb'}  # draws what it measures
# the flags are those that nbdev_test leaves out
SKIPPED = re.compile(r'^#\| *(cuda|slow|eval: *false)', re.M)


def pictures(book):
    "The PNG outputs of a notebook: (number of the cell, pixels)"
    found = []
    for n, cell in enumerate(book.cells):
        for out in cell.get('outputs', []):
            png = out.get('data', {}).get('image/png')
            if png:
                found.append((n, np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))))
    return found


KERNELS = Path(__file__).with_name('kernels.py')


@pytest.fixture(scope='session')
def server(tmp_path_factory):
    "The socket of a process that forks kernels; None where there is no fork"
    if sys.platform != 'linux':
        yield None
        return

    path = tmp_path_factory.mktemp('kernels') / 'socket'
    # in the folder of matplotlibrc, which matplotlib reads when it is imported
    process = subprocess.Popen([sys.executable, KERNELS, 'serve', path], cwd=folder)
    while not path.exists() and process.poll() is None:
        time.sleep(0.1)
    yield path
    process.kill()
    process.wait()


def kernel_manager(server):
    "The class that starts a kernel: a fork of the server's process, or one of its own"
    if server is None:
        return AsyncKernelManager

    class Forked(AsyncKernelManager):
        def format_kernel_cmd(self, extra_arguments=None):
            return [sys.executable, str(KERNELS), 'kernel', str(server), self.connection_file]

    return Forked


@pytest.mark.parametrize(
    'path',
    sorted(folder.rglob('[!.]*.ipynb')),
    ids=lambda path: path.relative_to(folder).as_posix(),
)
def test_runs_in_a_fresh_kernel(path, server, monkeypatch):
    # as in JupyterLab: figures go into the notebook
    monkeypatch.delenv('MPLBACKEND', raising=False)
    book = nbformat.read(path, 4)
    book.cells = [cell for cell in book.cells if not SKIPPED.search(cell.source)]
    drawn = [n for n, _ in pictures(book)]
    for cell in book.cells:
        if cell.cell_type == 'code':
            cell.outputs, cell.execution_count = [], None
    where = dict(metadata=dict(path=str(path.parent)))
    manager = kernel_manager(server)
    NotebookClient(book, kernel_manager_class=manager, timeout=900, resources=where).execute()
    assert [n for n, _ in pictures(book)] == drawn, (
        'the cells with figures are others than in the notebook as it is kept'
    )
    earlier = os.environ.get('IDKL_EXECUTED')
    if not earlier:
        return

    file = Path(earlier) / path.relative_to(folder)
    if not file.exists() or path.name in TIMED:
        file.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, file)
        return
    then = pictures(nbformat.read(file, 4))
    for (n, new), (m, old) in zip(pictures(book), then, strict=True):
        message = f'the figure of cell {n} is another: {book.cells[n].source[:200]}'
        assert n == m and np.array_equal(new, old), message
