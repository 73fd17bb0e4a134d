"""Every notebook from top to bottom in a fresh kernel, and its figures.

IDKL_EXECUTED names a folder for the executed notebooks; where it already holds one, the figures must have the same pixels as there."""

import base64
import io
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

folder = Path(__file__).resolve().parents[2] / 'nbs'
TIMED = {'speed.ipynb'}  # draws what it measures
SKIPPED = re.compile(
    r'^#\| *(cuda|slow|eval: *false)', re.M
)  # the flags are those that nbdev_test leaves out


def pictures(book):
    "The PNG outputs of a notebook: (number of the cell, pixels)"
    found = [
        (n, out.data['image/png'])
        for n, cell in enumerate(book.cells)
        if cell.cell_type == 'code'
        for out in cell.outputs
        if 'image/png' in out.get('data', {})
    ]
    return [(n, np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))) for n, png in found]


@pytest.mark.parametrize(
    'path',
    sorted(folder.rglob('[!.]*.ipynb')),
    ids=lambda path: path.relative_to(folder).as_posix(),
)
def test_runs_in_a_fresh_kernel(path, monkeypatch):
    monkeypatch.delenv(
        'MPLBACKEND', raising=False
    )  # as in JupyterLab: figures go into the notebook
    book = nbformat.read(path, 4)
    book.cells = [cell for cell in book.cells if not SKIPPED.search(cell.source)]
    drawn = [n for n, _ in pictures(book)]
    for cell in book.cells:
        if cell.cell_type == 'code':
            cell.outputs, cell.execution_count = [], None
    NotebookClient(
        book, timeout=900, resources=dict(metadata=dict(path=str(path.parent)))
    ).execute()
    assert [n for n, _ in pictures(book)] == drawn, (
        'the cells with figures are others than in the notebook as it is kept'
    )
    kept = os.environ.get('IDKL_EXECUTED')
    if not kept:
        return
    file = Path(kept) / path.relative_to(folder)
    if file.exists() and path.name not in TIMED:
        for (n, new), (m, old) in zip(
            pictures(book), pictures(nbformat.read(file, 4)), strict=True
        ):
            assert n == m and new.shape == old.shape and (new == old).all(), (
                f'the figure of cell {n} is another: {book.cells[n].source[:200]}'
            )
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, file)
