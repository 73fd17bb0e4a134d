"""What people hand over by mistake: a table of cases with the message that each gets.

Names that must work, and readers fuzzed for a bounded time, stand below it."""

import contextlib
import dataclasses
import functools
import io
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from torch import nn

from idkl_nb.assembly import IDKLConfig
from idkl_nb.augmentation import BatchAugment, normalise
from idkl_nb.backbone import GeM
from idkl_nb.batches import PKSampler, eval_loader, train_loader
from idkl_nb.cache_building import build_cache
from idkl_nb.check import check, check_main
from idkl_nb.checkpoints import (
    CheckpointError,
    Checkpoints,
    load_released_checkpoint,
    load_state,
    save_state,
)
from idkl_nb.common import INFRARED, VISIBLE, DataError
from idkl_nb.config import PRESETS, TrainConfig
from idkl_nb.csa import csa_loss
from idkl_nb.embed_command import embed_main, images_below
from idkl_nb.evaluate import evaluate_main
from idkl_nb.faiss_search import to_faiss
from idkl_nb.feature_files import load_features, save_features
from idkl_nb.features import FeatureTable, embed
from idkl_nb.identity import batch_hard_triplet
from idkl_nb.images import Images, eval_transform, train_transform
from idkl_nb.mdr import mdr_loss, pair_modalities
from idkl_nb.metrics import retrieval_scores
from idkl_nb.modality import cross_entropy, modality_loss
from idkl_nb.model import IDKL
from idkl_nb.protocol_scores import join_trials
from idkl_nb.protocols import LLCM, SYSU, RegDB
from idkl_nb.purifier import centre_distances
from idkl_nb.readers import read_dataset, read_llcm, read_regdb, read_sysu
from idkl_nb.reading_images import read_image
from idkl_nb.records import Records
from idkl_nb.rerank import k_reciprocal
from idkl_nb.run_folder import load_run
from idkl_nb.scoring import score_features
from idkl_nb.sysu_draws import read_sysu_draws
from idkl_nb.tgsa import distillation_loss, tgsa_loss
from idkl_nb.train_command import train_main
from idkl_nb.training import fit, resume
from idkl_nb.training_log import check_finite
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

nan, quiet = float('nan'), dict(progress=False)
small = dataclasses.replace(PRESETS['smoke'], P=2, epochs=1, batches=1)


class Bench:
    "Small datasets, features, a network and a trained run; every damage is done to a copy"

    def __init__(self, folder):
        self.folder, self.number, world = Path(folder), 0, World(height=32, width=16)
        self.roots = dict(
            sysu=write_sysu(world, self.folder / 'sysu', [1, 2], [3], [4, 5], images=8),
            regdb=write_regdb(world, self.folder / 'regdb', range(1, 5), images=2),
            llcm=write_llcm(world, self.folder / 'llcm', [1, 2], [3], images=9),
        )
        self.records = read_sysu(self.roots['sysu'])
        self.train, self.test = (
            self.records.where(split=('train', 'val')),
            self.records.where(split='test'),
        )
        g = torch.Generator().manual_seed(0)
        self.features = torch.randn(len(self.test), 4, generator=g)
        asks = self.test.modality == INFRARED
        self.Q, self.Qr, self.G, self.Gr = (
            self.features[asks],
            self.test[asks],
            self.features[~asks],
            self.test[~asks],
        )
        self.x, self.z, self.ids, self.light = (
            torch.randn(8, 4, generator=g),
            torch.randn(8, 3, generator=g),
            torch.tensor([0, 0, 1, 1] * 2),
            torch.tensor([0] * 4 + [1] * 4),
        )
        self.d, self.queries, self.gallery = (
            torch.rand(3, 5, generator=g),
            torch.arange(3),
            torch.tensor([0, 1, 2, 0, 1]),
        )

    def new(self, name=''):
        "A path that is not there, in a folder of its own"
        self.number += 1
        folder = self.folder / f'new {self.number}'
        folder.mkdir()
        return folder / name if name else folder

    def file(self, content=b'', name='file'):
        path = self.new(name)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def copy(self, layout, file=None, content=b''):
        "A copy of a dataset, in which a file has another content, or, if that is None, is missing"
        root = shutil.copytree(self.roots[layout], self.new('copy'), symlinks=True)
        if file and content is None:
            (root / file).unlink()
        elif file:
            (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    def line(self, text):
        "RegDB with this list of thermal test images"
        return self.copy('regdb', 'idx/test_thermal_1.txt', text)

    def first(self, content):
        "The training images of SYSU-MM01, of which the first has another content; None: is missing"
        return dataclasses.replace(self.train, root=self.copy('sysu', self.train.path[0], content))

    def image(self, size, format='PNG', mode='1'):
        made = io.BytesIO()
        Image.new(mode, size).save(made, format)
        return made.getvalue()

    def mat(self, **variables):
        made = io.BytesIO()
        savemat(made, variables)
        return self.copy('sysu', 'exp/rand_perm_cam.mat', made.getvalue())

    def cells(self, draw):
        "This draw for the second of two people, in each of six cameras"
        made = np.empty((6, 1), dtype=object)
        for camera in range(6):
            made[camera, 0] = np.empty((2, 1), dtype=object)
            made[camera, 0][0, 0], made[camera, 0][1, 0] = np.empty((10, 0)), draw
        return made

    def table(self, features=None, records=None, about=None):
        return FeatureTable(
            self.features if features is None else features,
            self.test if records is None else records,
            about or {},
        )

    def saved(self, features=None, records=None):
        "A file of features"
        save_features(self.table(features, records), path := self.new('saved.npz'))
        return path

    def npz(self, **columns):
        path = self.new('features.npz')
        good = dict(
            features=np.eye(2),
            path=np.array(['cam1/1.jpg', 'cam3/1.jpg']),
            identity=np.array([1, 1]),
            camera=np.array([1, 3]),
            modality=np.array([0, 1]),
        )
        np.savez(
            path, **{name: value for name, value in (good | columns).items() if value is not None}
        )
        return path

    @functools.cached_property
    def run(self):
        "A trained run"
        fit(small, self.train, self.folder / 'runs' / 'run', **quiet)
        return self.folder / 'runs' / 'run'

    @functools.cached_property
    def seen(self):
        "The dataset of that run; of the people to test on it was trained on one"
        fit(
            small,
            self.train,
            self.folder / 'runs' / 'named',
            dataset=dict(name='SYSU-MM01'),
            **quiet,
        )
        root = self.copy('sysu', 'exp/train_id.txt', '2,5')
        (root / 'exp' / 'test_id.txt').write_text('1,4')
        return root

    def spoiled(self, name, content):
        "A copy of that run in which a file has another content"
        run = shutil.copytree(self.run, self.new('run'))
        (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return run


def said(main, *words):
    "Run a command; its exit code and what it printed stand in the SystemExit"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            main([str(word) for word in words])
    except SystemExit as end:
        raise SystemExit(f'code {end.code}: {printed.getvalue()}') from None


def saved(bench, **columns):
    "Test features in a file, in LLCM's folders, with the same number in some columns"
    file = bench.new('features.npz')
    folders = np.array(['vis', 'nir'])[bench.test.modality]
    columns = {name: np.full(len(bench.test), value) for name, value in columns.items()}
    columns['path'] = np.array(
        [f'{folder}/{path}' for folder, path in zip(folders, bench.test.path)]
    )
    records = dataclasses.replace(bench.test, **columns)
    save_features(bench.table(records=records), file)
    return file


class Case(NamedTuple):
    area: str
    what: str  # that is handed over
    do: object  # function of a `Bench`
    exception: type
    message: str  # regular expression


_cases = []


def area(name, *rows):
    _cases.extend(Case(name, *row) for row in rows)


area(
    'readers',
    (
        'no folder of that name',
        lambda b: read_dataset(b.folder / 'nothing'),
        DataError,
        'nothing: no such folder. Expected the root folder',
    ),
    ('a file for a folder', lambda b: read_dataset(b.file()), DataError, 'no such folder'),
    ('a number for a folder', lambda b: read_dataset(5), DataError, "5: can't be looked at"),
    (
        'the home of nobody',
        lambda b: read_dataset('~nobody-of-this-name/data'),
        DataError,
        "nobody-of-this-name/data: can't be looked at",
    ),
    ('a name of 300 letters', lambda b: read_dataset('x' * 300), DataError, 'File name too long'),
    (
        'an empty folder',
        lambda b: read_dataset(b.new()),
        DataError,
        'neither cam1 .* nor Visible .* nor vis',
    ),
    ('one folder too high', lambda b: read_dataset(b.folder), DataError, 'one level too high'),
    (
        'SYSU-MM01 without a camera',
        lambda b: read_sysu(shutil.rmtree((root := b.copy('sysu')) / 'cam3') or root),
        DataError,
        'cam3: no such folder. Expected the folder of SYSU-MM01',
    ),
    (
        'SYSU-MM01 without a list',
        lambda b: read_sysu(b.copy('sysu', 'exp/test_id.txt', None)),
        DataError,
        'test_id.txt: this list file is missing',
    ),
    (
        'an empty list',
        lambda b: read_sysu(b.copy('sysu', 'exp/test_id.txt', '\n \n')),
        DataError,
        'test_id.txt: this list file is empty',
    ),
    (
        'a list in UTF-16',
        lambda b: read_sysu(b.copy('sysu', 'exp/test_id.txt', '4,5'.encode('utf-16'))),
        DataError,
        'test_id.txt: this list file is unreadable',
    ),
    (
        'words for identities',
        lambda b: read_sysu(b.copy('sysu', 'exp/test_id.txt', 'four,5')),
        DataError,
        r"\['four'\] is not a list of identities",
    ),
    (
        'a number of 5,000 digits',
        lambda b: read_sysu(b.copy('sysu', 'exp/test_id.txt', '9' * 5000)),
        DataError,
        'is not a list of identities',
    ),
    (
        'an identity without images',
        lambda b: read_sysu(b.copy('sysu', 'exp/test_id.txt', '4,77')),
        DataError,
        'identity 0077 of exp/test_id.txt has no image',
    ),
    (
        'training on a test identity, SYSU-MM01',
        lambda b: read_sysu(b.copy('sysu', 'exp/test_id.txt', '1,4')),
        DataError,
        'test_id.txt: identity 1 is in the training and in the test set',
    ),
    (
        'training on a test identity, RegDB',
        lambda b: read_regdb(b.line((b.roots['regdb'] / 'idx/train_thermal_1.txt').read_text())),
        DataError,
        'is in the training and in the test set',
    ),
    (
        'training on a test identity, LLCM',
        lambda b: read_llcm(
            b.copy('llcm', 'idx/test_nir.txt', (b.roots['llcm'] / 'idx/train_nir.txt').read_text())
        ),
        DataError,
        'identity 1 is in the training and in the test set',
    ),
    (
        'a visible image in a thermal list',
        lambda b: read_regdb(b.line('Visible/1/visible_00.bmp 0')),
        DataError,
        'does not lie in Thermal',
    ),
    ('trial 11', lambda b: read_regdb(b.roots['regdb'], 11), DataError, 'RegDB has trials 1 to 10'),
    (
        'a line without a label',
        lambda b: read_regdb(b.line('Thermal/1/thermal_00.bmp')),
        DataError,
        'line 1: .* is not "path label"',
    ),
    (
        'a line without a path',
        lambda b: read_regdb(b.line('. 0')),
        DataError,
        'line 1: .* names no file',
    ),
    (
        'a list of nothing but names that begin with a dot',
        lambda b: read_regdb(b.line('Thermal/1/._thermal_00.bmp 0')),
        DataError,
        'test_thermal_1.txt: no image is listed',
    ),
    (
        'a path out of the root',
        lambda b: read_regdb(b.line('Thermal/../../secret/1/a.bmp 0')),
        DataError,
        'line 1: .* leaves the root',
    ),
    (
        'an absolute path',
        lambda b: read_regdb(b.line('/etc/passwd 0')),
        DataError,
        'leaves the root',
    ),
    (
        'a path of 5,000 letters',
        lambda b: read_regdb(b.line(f'Thermal/1/{"a" * 5000}.bmp 0')),
        DataError,
        'listed in .*test_thermal_1.txt, line 1, but is not there',
    ),
    (
        'an image that is not there',
        lambda b: read_regdb(b.line('Thermal/1/none.bmp 0')),
        DataError,
        'line 1, but is not there. Unpack the images again',
    ),
    (
        'two labels for one person',
        lambda b: read_regdb(b.line('Thermal/1/thermal_00.bmp 0\nThermal/1/thermal_01.bmp 1')),
        DataError,
        'line 2: identity 1 has label 1 here and 0 before',
    ),
    (
        'one label for two people',
        lambda b: read_regdb(b.line('Thermal/1/thermal_00.bmp 0\nThermal/2/thermal_00.bmp 0')),
        DataError,
        'two identities share one label',
    ),
    (
        'LLCM with camera 12 in a name',
        lambda b: read_llcm(
            (root := b.copy('llcm', 'vis/0001/0001_c12_s0.jpg'))
            and (root / 'idx/train_vis.txt').write_text('vis/0001/0001_c12_s0.jpg 0')
            and root
        ),
        DataError,
        'carries no camera from 1 to 9',
    ),
    (
        'a column that is misspelt',
        lambda b: b.records.where(identiy=1),
        ValueError,
        r"no column \['identiy'\]; the columns are path, identity",
    ),
    (
        'a number for rows of a table',
        lambda b: b.records[3],
        TypeError,
        r'for example records\[3:4\]',
    ),
)

area(
    'gallery draws',
    (
        'no file',
        lambda b: read_sysu_draws(b.copy('sysu', 'exp/rand_perm_cam.mat', None)),
        DataError,
        'the file of gallery draws is missing. It is in the public repository',
    ),
    (
        'a web page',
        lambda b: read_sysu_draws(b.copy('sysu', 'exp/rand_perm_cam.mat', '<!DOCTYPE html>' * 99)),
        DataError,
        'rand_perm_cam.mat: not a readable .mat file .*save it with -v7.*evaluation/data_split',
    ),
    (
        'half of the file',
        lambda b: read_sysu_draws(
            b.copy(
                'sysu',
                'exp/rand_perm_cam.mat',
                (b.roots['sysu'] / 'exp/rand_perm_cam.mat').read_bytes()[:900],
            )
        ),
        DataError,
        'rand_perm_cam.mat: not a readable .mat file .*evaluation/data_split',
    ),
    (
        'MATLAB 7.3',
        lambda b: read_sysu_draws(
            b.copy('sysu', 'exp/rand_perm_cam.mat', b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM')
        ),
        DataError,
        'save it with -v7',
    ),
    (
        'a matrix of another form',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam=np.eye(3))),
        DataError,
        r'expected rand_perm_cam to be six cells of cells; found float64 of shape \(3, 3\)',
    ),
    (
        'another variable',
        lambda b: read_sysu_draws(b.mat(perm=np.eye(3))),
        DataError,
        r"it has \['perm'\]",
    ),
    (
        'words',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam='words')),
        DataError,
        'expected rand_perm_cam to be six cells of cells',
    ),
    (
        'five cells',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam=b.cells(np.eye(10))[:5])),
        DataError,
        'six cells of cells',
    ),
    (
        'cells of numbers',
        lambda b: read_sysu_draws(
            b.mat(rand_perm_cam=np.array([[np.eye(2)], [np.eye(3)]] * 3, dtype=object))
        ),
        DataError,
        'six cells of cells',
    ),
    (
        'nine trials',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam=b.cells(np.ones((9, 1))))),
        DataError,
        r'camera 1, identity 2: expected 10 permutations, one a row, found .* of shape \(9, 1\)',
    ),
    (
        'numbers from 0',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam=b.cells(np.zeros((10, 1))))),
        DataError,
        'camera 1, identity 2: expected 10 permutations',
    ),
    (
        'draws of NaN',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam=b.cells(np.full((10, 1), nan)))),
        DataError,
        'expected 10 permutations',
    ),
    (
        'complex draws',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam=b.cells(np.ones((10, 1)) * 1j))),
        DataError,
        'found complex128',
    ),
    (
        'draws in three dimensions',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam=b.cells(np.ones((10, 1, 2))))),
        DataError,
        r'of shape \(10, 1, 2\)',
    ),
    (
        'words for draws',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam=b.cells(np.array(['words'])))),
        DataError,
        'expected 10 permutations',
    ),
    (
        'cells for draws',
        lambda b: read_sysu_draws(b.mat(rand_perm_cam=b.cells(b.cells(np.ones((10, 1)))))),
        DataError,
        'found object of shape',
    ),
    (
        'draws of other images',
        lambda b: SYSU().evaluate(b.Q, b.Qr, b.G[1:], b.Gr[1:]),
        ValueError,
        'images of camera 1, but exp/rand_perm_cam.mat permutes 2',
    ),
)

area(
    'writers',
    (
        'a folder with something in it',
        lambda b: write_sysu(World(), b.roots['sysu'], [1], [2], [3]),
        DataError,
        'something is there already',
    ),
    (
        'a person in two splits',
        lambda b: write_sysu(World(), b.new('x'), [1], [2], [2]),
        DataError,
        'stands in two splits',
    ),
    (
        'no images',
        lambda b: write_llcm(World(), b.new('x'), [1], [2], images=0),
        DataError,
        'no image to draw',
    ),
    (
        'one person for two splits',
        lambda b: write_regdb(World(), b.new('x'), [1]),
        DataError,
        'at least 2 identities',
    ),
    (
        'a folder below a file',
        lambda b: write_sysu(World(), b.file() / 'x', [1], [2], [3], 1),
        DataError,
        "the dataset can't be written here",
    ),
    (
        'a folder where nobody may write',
        lambda b: write_sysu(World(), '/proc/idkl', [1], [2], [3], 1),
        DataError,
        "/proc/idkl: the dataset can't be written here",
    ),
    (
        'a world with a coupling of NaN',
        lambda b: World(coupling=nan),
        ValueError,
        'coupling must be from 0 .* to 1',
    ),
)

area(
    'images',
    (
        'an empty file',
        lambda b: Images(b.first(b''), eval_transform(8, 8))[0],
        DataError,
        '0001.jpg: this image is missing or damaged',
    ),
    (
        'no file',
        lambda b: Images(b.first(None), eval_transform(8, 8))[0],
        DataError,
        'No such file',
    ),
    (
        'half a file',
        lambda b: Images(
            b.first((b.train.root / b.train.path[0]).read_bytes()[:400]), eval_transform(8, 8)
        )[0],
        DataError,
        '(?i)truncated',
    ),
    ('a text', lambda b: read_image(b.file('not an image')), DataError, 'cannot identify'),
    ('a GIF', lambda b: read_image(b.file(b.image((9, 9), 'GIF'))), DataError, 'cannot identify'),
    (
        'a TIFF',
        lambda b: read_image(b.file(b.image((9, 9), 'TIFF'))),
        DataError,
        'Expected JPEG, PNG, BMP. .* convert it',
    ),
    (
        '16 bits of grey',
        lambda b: read_image(b.file(b.image((9, 9), mode='I;16'))),
        DataError,
        'more than 8 bits a pixel .* Convert all images of its modality to 8 bits by one range',
    ),
    (
        '16 bits of grey in the cache',
        lambda b: build_cache(b.first(b.image((9, 9), mode='I;16')), 8, 8, b.new(), **quiet),
        DataError,
        '0001.jpg: this image has more than 8 bits',
    ),
    (
        '16 bits of grey in the check',
        lambda b: said(check_main, b.copy('sysu', b.train.path[0], b.image((9, 9), mode='I;16'))),
        SystemExit,
        '(?s)code 1: .*error: more than 8 bits .*by one range',
    ),
    (
        '36 million pixels',
        lambda b: read_image(b.file(b.image((6000, 6000)))),
        DataError,
        '6000 x 6000 pixels, more than 25,000,000',
    ),
    (
        'a decompression bomb',
        lambda b: read_image(b.file(b.image((20_000, 20_000)))),
        DataError,
        'decompression bomb',
    ),
    (
        'a bomb in the cache',
        lambda b: build_cache(b.first(b.image((20_000, 20_000))), 8, 8, b.new(), **quiet),
        DataError,
        '0001.jpg: this image is missing or damaged .*bomb',
    ),
    (
        'nobody to stand in',
        lambda b: Images(b.first(b'')[:1], eval_transform(8, 8), on_unreadable='skip')[0],
        DataError,
        'No other visible image of identity 1',
    ),
    (
        'a misspelt setting',
        lambda b: Images(b.train, None, on_unreadable='ignore'),
        TypeCheckError,
        'on_unreadable',
    ),
    (
        'a number below 0 of workers',
        lambda b: train_loader(b.train, None, 2, 2, workers=-1),
        ValueError,
        'num_workers option should be non-negative',
    ),
    (
        'batches of no image',
        lambda b: eval_loader(b.train, None, batch_size=0),
        ValueError,
        'batch_size should be a positive integer',
    ),
)

area(
    'cache',
    (
        'no images',
        lambda b: build_cache(b.train[:0], 8, 8, b.new()),
        ValueError,
        'the table is empty',
    ),
    (
        'a height of 0',
        lambda b: build_cache(b.train, 0, 8, b.new()),
        ValueError,
        '0 x 8 pixels is no size',
    ),
    (
        'a file for a folder',
        lambda b: build_cache(b.train, 8, 8, b.file(), **quiet),
        DataError,
        "the image cache can't be written",
    ),
    (
        'a folder where nobody may write',
        lambda b: build_cache(b.train, 8, 8, '/proc/idkl', **quiet),
        DataError,
        "/proc/idkl: the image cache can't be written .* check the rights",
    ),
)

area(
    'sampler',
    (
        'P larger than the identities',
        lambda b: PKSampler(b.train, 9, 2),
        ValueError,
        'P = 9, but only 3 identities .* choose a smaller P',
    ),
    (
        'one identity',
        lambda b: PKSampler(b.train.where(identity=1), 2, 2),
        ValueError,
        'only 1 identities',
    ),
    ('one image', lambda b: PKSampler(b.train[:1], 2, 2), ValueError, 'only 0 identities'),
    ('no image', lambda b: PKSampler(b.train[:0], 2, 2), ValueError, 'only 0 identities'),
    (
        'P = 1',
        lambda b: PKSampler(b.train, 1, 2),
        ValueError,
        'at least 2 identities .the triplet loss compares people',
    ),
    ('K = 0', lambda b: PKSampler(b.train, 2, 0), ValueError, 'and 1 image of each'),
    (
        'P = NaN',
        lambda b: PKSampler(b.train, nan, 2),
        TypeCheckError,
        "parameter 'P'",
    ),
    (
        'an epoch of 0 batches',
        lambda b: PKSampler(b.train, 2, 2, batches=0),
        ValueError,
        'at least 1 batch',
    ),
    (
        'a seed below 0',
        lambda b: PKSampler(b.train, 2, 2, seed=-1),
        ValueError,
        'seeds count from 0',
    ),
)

area(
    'transforms',
    (
        'a size in words',
        lambda b: eval_transform('64', 32),
        TypeCheckError,
        "parameter 'height'",
    ),
    ('a width of 0', lambda b: train_transform(64, 0), ValueError, '64 x 0 pixels is no size'),
    (
        'a probability of 2',
        lambda b: train_transform(64, 32, flip=2.0),
        ValueError,
        'floating point value in the interval',
    ),
    (
        'a probability of NaN',
        lambda b: train_transform(64, 32, channel=nan),
        ValueError,
        'nan is no probability',
    ),
    (
        'a batch with a probability of -1',
        lambda b: BatchAugment(erasing=-1.0),
        ValueError,
        'erasing = -1.0 is no probability',
    ),
    ('a shift below 0', lambda b: BatchAugment(shift=-3), ValueError, 'expected 0 or more pixels'),
    (
        'images normalised twice',
        lambda b: normalise(torch.rand(2, 3, 4, 4)),
        TypeCheckError,
        r'f32\[2,3,4,4\]',
    ),
)

area(
    'losses',
    (
        'fewer labels than images',
        lambda b: batch_hard_triplet(b.x, b.ids[:3], 0.3),
        TypeCheckError,
        r"(?s)parameter 'ids'.*i64\[3\].*B=8",
    ),
    (
        'a list of labels',
        lambda b: batch_hard_triplet(b.x, b.ids.tolist(), 0.3),
        TypeCheckError,
        "parameter 'ids' is a list; expected a torch tensor, Int.*Write torch.tensor",
    ),
    (
        'a margin of NaN',
        lambda b: IDKLConfig(margin=nan),
        ValueError,
        'margin must be a number of at least 0, got nan',
    ),
    (
        'a label without a class',
        lambda b: cross_entropy(b.z, b.ids + 5),
        IndexError,
        'Target 5 is out of bounds',
    ),
    (
        'labels that are fractions',
        lambda b: cross_entropy(b.z, b.ids.float()),
        TypeCheckError,
        r"(?s)parameter 'labels'.*f32\[8\].*Expected type: .*Int64",
    ),
    (
        'a third modality',
        lambda b: modality_loss([b.z[:, :2]], b.light + 1),
        IndexError,
        'Target 2 is out of bounds',
    ),
    (
        'a reversal by NaN',
        lambda b: IDKLConfig(alpha=nan),
        ValueError,
        'alpha must be a number of at least 0, got nan',
    ),
    (
        'groups of unequal size',
        lambda b: tgsa_loss(b.x, b.x[:3]),
        TypeCheckError,
        r"parameter 'b'(.|\n)*f32\[3,4\]",
    ),
    (
        'a misspelt reduction',
        lambda b: tgsa_loss(b.x, b.x, 'average'),
        TypeCheckError,
        r"'average'(.|\n)*'sum', 'mean'",
    ),
    (
        'modalities 1 and 2',
        lambda b: pair_modalities(b.x, b.ids, b.light + 1),
        ValueError,
        'identity 0 has 0 visible and 2 infrared images',
    ),
    (
        'features without their names',
        lambda b: distillation_loss(b.x, b.x, b.light),
        TypeError,
        'too many positional arguments',
    ),
    (
        'logits of unequal shape',
        lambda b: csa_loss(b.z, b.z[:2]),
        TypeCheckError,
        r"parameter 'logits_specific'(.|\n)*f32\[2,3\]",
    ),
    (
        'logits without partners',
        lambda b: mdr_loss(b.x, b.x, b.z, b.z[:2]),
        TypeCheckError,
        r"parameter 'logits_infrared'(.|\n)*f32\[2,3\]",
    ),
    (
        'more visible than infrared images',
        lambda b: pair_modalities(b.x, b.ids, torch.tensor([0] * 5 + [1] * 3)),
        ValueError,
        'identity 0 has 3 visible and 1 infrared',
    ),
    (
        'GeM with an exponent of 0',
        lambda b: IDKLConfig(gem_p=0.0),
        ValueError,
        'p must be positive',
    ),
    (
        'a loss that is NaN',
        lambda b: check_finite(pd.DataFrame(dict(ce=[1.0, nan]), index=[7, 8])),
        FloatingPointError,
        'step 8: ce is not finite',
    ),
)

area(
    'network',
    (
        'one training identity',
        lambda b: IDKL(IDKLConfig(backbone='narrow'), 1),
        ValueError,
        'a classifier needs at least 2',
    ),
    (
        'grey images',
        lambda b: IDKL(IDKLConfig(backbone='narrow'), 3)(torch.rand(2, 1, 64, 32)),
        TypeCheckError,
        r"parameter 'images'(.|\n)*f32\[2,1,64,32\](.|\n)*B 3 H W",
    ),
    (
        'raw images',
        lambda b: IDKL(IDKLConfig(backbone='narrow'), 3)(
            torch.zeros(2, 3, 64, 32, dtype=torch.uint8)
        ),
        TypeCheckError,
        r"parameter 'images'(.|\n)*u8\[2,3,64,32\](.|\n)*B 3 H W",
    ),
    (
        'an unknown backbone',
        lambda b: IDKL(IDKLConfig(backbone='resnet51'), 3),
        ValueError,
        'choose one of narrow, resnet18',
    ),
    (
        'weights that are not there',
        lambda b: IDKL(IDKLConfig(backbone='narrow', weights='none.pth'), 3),
        ValueError,
        'neither a file nor a name known for narrow',
    ),
    (
        'weights of another network',
        lambda b: IDKL(
            IDKLConfig(
                backbone='narrow',
                weights=str(
                    save_file({'a': torch.zeros(2)}, file := b.new('w.safetensors')) or file
                ),
            ),
            3,
        ),
        ValueError,
        'these are not weights of narrow',
    ),
    (
        'a tensor for weights',
        lambda b: IDKL(
            IDKLConfig(
                backbone='narrow',
                weights=str(torch.save(torch.zeros(2), file := b.new('w.pth')) or file),
            ),
            3,
        ),
        ValueError,
        'not a state dictionary of tensors but Tensor',
    ),
)

area(
    'metrics',
    (
        'distances of NaN',
        lambda b: retrieval_scores(b.d * nan, b.queries, b.gallery),
        ValueError,
        'the distance of query 0 and gallery image 0 is NaN',
    ),
    (
        'queries and gallery exchanged',
        lambda b: retrieval_scores(b.d.T, b.queries, b.gallery),
        ValueError,
        r'shape \(5, 3\), expected \(3, 5\): one row a query',
    ),
    (
        'an empty gallery',
        lambda b: retrieval_scores(b.d[:, :0], b.queries, b.gallery[:0]),
        ValueError,
        '3 queries and 0 gallery images',
    ),
    (
        'no query',
        lambda b: retrieval_scores(b.d[:0], b.queries[:0], b.gallery),
        ValueError,
        '0 queries and 5 gallery images',
    ),
    (
        'a gallery of strangers',
        lambda b: retrieval_scores(b.d, b.queries + 9, b.gallery),
        ValueError,
        'none of the 3 queries has a right image .* numbered alike',
    ),
    (
        'a list of lists',
        lambda b: retrieval_scores(b.d.tolist(), b.queries, b.gallery),
        TypeCheckError,
        r"parameter 'distances'(.|\n)*Table",
    ),
    (
        'identities in a column',
        lambda b: retrieval_scores(b.d, b.queries[:, None], b.gallery),
        TypeCheckError,
        r"parameter 'query_ids'(.|\n)*i64\[3,1\]",
    ),
    (
        'a mask of numbers',
        lambda b: retrieval_scores(b.d, b.queries, b.gallery, b.d),
        ValueError,
        'boolean mask, got torch.float32',
    ),
    (
        'a mask of another shape',
        lambda b: retrieval_scores(b.d, b.queries, b.gallery, b.d[:2] > 0),
        ValueError,
        r'boolean mask of shape \(3, 5\)',
    ),
    (
        'rank 0',
        lambda b: retrieval_scores(b.d, b.queries, b.gallery).rank(0),
        ValueError,
        'ranks count from 1',
    ),
)

area(
    're-ranking',
    (
        'more neighbours than images',
        lambda b: k_reciprocal(b.Q, b.G, k1=40),
        ValueError,
        'k1=40 neighbours are wanted, .* there are 17 points',
    ),
    (
        'features of NaN',
        lambda b: k_reciprocal(b.Q * nan, b.G),
        ValueError,
        '16 query features are NaN',
    ),
    (
        'an empty gallery',
        lambda b: k_reciprocal(b.Q, b.G[:0]),
        ValueError,
        '0 gallery images: there is nothing to rank',
    ),
    (
        'features of two lengths',
        lambda b: k_reciprocal(b.Q, b.G[:, :2]),
        TypeCheckError,
        r"(?s)parameter 'gallery'.*f32\[16,2\].*G C",
    ),
    (
        'a list',
        lambda b: k_reciprocal(b.Q.tolist(), b.G),
        TypeCheckError,
        "parameter 'query' is a list; expected a torch tensor, Float.Tensor, 'Q C'",
    ),
    (
        'neighbours in words',
        lambda b: k_reciprocal(b.Q, b.G, k1='20'),
        TypeCheckError,
        "(?s)parameter 'k1'.*Actual value: '20'.*Integral",
    ),
    (
        'a share of NaN',
        lambda b: k_reciprocal(b.Q, b.G, k1=8, lambda_value=nan),
        ValueError,
        'between 0 and 1, got nan',
    ),
    (
        'a misspelt scope',
        lambda b: k_reciprocal(b.Q, b.G, k1=8, scope='queries'),
        TypeCheckError,
        "(?s)parameter 'scope'.*Actual value: 'queries'.*'gallery', 'all'",
    ),
)

area(
    'protocols',
    (
        'an empty gallery',
        lambda b: SYSU().evaluate(b.Q, b.Qr, b.G[:0], b.Gr[:0]),
        ValueError,
        'gallery: no images; select the test split',
    ),
    (
        'one record too many',
        lambda b: SYSU().evaluate(b.Q[1:], b.Qr, b.G, b.Gr),
        ValueError,
        'for 16 records; expected one row a record',
    ),
    (
        'both modalities',
        lambda b: SYSU().evaluate(b.features, b.test, b.G, b.Gr),
        ValueError,
        'query: both modalities; select one',
    ),
    (
        'the same modality twice',
        lambda b: LLCM().evaluate(b.G, b.Gr, b.G, b.Gr),
        ValueError,
        'query and gallery are both visible',
    ),
    (
        'the other direction',
        lambda b: SYSU().evaluate(b.G, b.Gr, b.Q, b.Qr),
        ValueError,
        'asks from infrared to visible',
    ),
    (
        'features of NaN',
        lambda b: LLCM().evaluate(b.Q * nan, b.Qr, b.G, b.Gr),
        ValueError,
        'look for NaN in the features',
    ),
    (
        'features of two networks',
        lambda b: SYSU().evaluate(b.Q[:, :2], b.Qr, b.G, b.Gr),
        TypeCheckError,
        r"(?s)parameter 'gallery_features'.*f32\[16,4\].*'G C'.*C=2",
    ),
    (
        'a list',
        lambda b: SYSU().evaluate(b.Q.tolist(), b.Qr, b.G, b.Gr),
        TypeCheckError,
        "parameter 'query_features' is a list; expected .*Tensor, 'Q C'",
    ),
    (
        'people who were trained on',
        lambda b: RegDB().evaluate(
            torch.rand(len(seen := b.train.where(modality=INFRARED)), 4), seen, b.G, b.Gr
        ),
        ValueError,
        'must not be tested on people it has seen',
    ),
    (
        'a misspelt mode',
        lambda b: SYSU(mode='indor'),
        TypeCheckError,
        "(?s)parameter 'mode'.*Actual value: 'indor'.*'all', 'indoor'",
    ),
    (
        'a misspelt field',
        lambda b: SYSU(mdoe='all'),
        TypeError,
        "unexpected keyword argument 'mdoe'",
    ),
    (
        'an unknown metric',
        lambda b: LLCM(metric='l2').evaluate(b.Q, b.Qr, b.G, b.Gr),
        TypeCheckError,
        "(?s)parameter 'metric'.*Actual value: 'l2'.*'cosine', 'euclidean'",
    ),
    (
        'one camera number for all images',
        lambda b: LLCM().evaluate(
            b.Q,
            dataclasses.replace(b.Qr, camera=0 * b.Qr.camera),
            b.G,
            dataclasses.replace(b.Gr, camera=0 * b.Gr.camera),
        ),
        ValueError,
        'none of the 16 queries .* camera rule .* leaves out every one'
        '.*camera numbers.*camera_rule=False',
    ),
    (
        'camera number 0 for all images',
        lambda b: SYSU(draws='seeded').evaluate(
            b.Q, b.Qr, b.G, dataclasses.replace(b.Gr, camera=0 * b.Gr.camera)
        ),
        ValueError,
        r'no gallery image is of one of the cameras \(1, 2, 4, 5\), but of \[0\]; '
        'give each image the number of its camera',
    ),
    (
        'people of whom no image is in the gallery',
        lambda b: LLCM().evaluate(
            b.Q, dataclasses.replace(b.Qr, identity=90 + b.Qr.identity), b.G, b.Gr
        ),
        ValueError,
        'none of the 16 queries .*numbered alike',
    ),
    (
        'too few images to re-rank',
        lambda b: LLCM(gallery='all', rerank='gallery').evaluate(
            b.Q[:, :3], b.Qr, b.G[:, :3], b.Gr
        ),
        ValueError,
        're-ranking looks at 20 neighbours .* more than 20 images; '
        'the gallery and a query are 17. Leave re-ranking out',
    ),
    (
        'too few images to re-rank, with all queries',
        lambda b: LLCM(rerank='all').evaluate(b.Q[:2], b.Qr[:2], b.G, b.Gr),
        ValueError,
        'the gallery and all queries are 1[0-9]. Leave re-ranking out: no --rerank',
    ),
    ('trial 99', lambda b: RegDB(trial=99), ValueError, 'RegDB has trials 1 to 10'),
    ('no scores to join', lambda b: join_trials([]), ValueError, 'no scores'),
)

area(
    'checkpoints',
    (
        'no file',
        lambda b: load_state(b.new('none.safetensors')),
        CheckpointError,
        'none.safetensors: no such file',
    ),
    ('an empty file', lambda b: load_state(b.file()), CheckpointError, 'not a readable state'),
    (
        'another safetensors file',
        lambda b: load_state(
            save_file({'a': torch.zeros(2)}, file := b.new('a.safetensors')) or file
        ),
        CheckpointError,
        'holds no state of a training',
    ),
    (
        'one bit changed',
        lambda b: load_state(
            save_state(dict(a=torch.zeros(99)), file := b.new('a.safetensors'))
            or file.write_bytes(file.read_bytes()[:-1] + b'\1')
            and file
        ),
        CheckpointError,
        'the checksum does not fit',
    ),
    (
        'a state with an object in it',
        lambda b: save_state(dict(a=dict(b=nn.ReLU())), b.new('a')),
        TypeError,
        '/a/b: ReLU cannot be stored',
    ),
    (
        'a folder that is not there',
        lambda b: save_state(dict(a=1), b.new() / 'none' / 'a'),
        CheckpointError,
        'no such folder; make it first',
    ),
    (
        'a file for a folder',
        lambda b: Checkpoints(b.file()).save(1, {}),
        CheckpointError,
        "this folder can't be made",
    ),
    (
        'checkpoints that are all damaged',
        lambda b: Checkpoints(b.file(b'x', 'step-000000001.safetensors').parent).newest(),
        CheckpointError,
        'none of the 1 checkpoints can be read',
    ),
    ('keep = 0', lambda b: Checkpoints(b.new(), keep=0), ValueError, 'keep must be at least 1'),
    (
        'a released checkpoint that runs code',
        lambda b: load_released_checkpoint(
            torch.save(dict(act=nn.ReLU()), file := b.new('a.pth')) or file
        ),
        CheckpointError,
        'holds more than tensors, or is damaged',
    ),
    (
        'a released checkpoint of another network',
        lambda b: load_released_checkpoint(
            torch.save(dict(a=torch.zeros(2)), file := b.new('a.pth')) or file
        ),
        CheckpointError,
        'tensors are missing or of another shape, for example: backbone',
    ),
)

area(
    'feature files',
    (
        'a column that is missing',
        lambda b: load_features(b.npz(camera=None)),
        DataError,
        r"keys that are missing: \['camera'\]",
    ),
    (
        'a split that is misspelt',
        lambda b: load_features(b.npz(Splits=np.array(['test', 'test']))),
        DataError,
        r"do not belong here: \['Splits'\]; is split meant",
    ),
    (
        'a word for the modality that is none',
        lambda b: load_features(b.npz(modality=np.array(['Radar', 'IR']))),
        DataError,
        'modality Radar occurs; expected 0 and 1, or in any case visible, vis, rgb',
    ),
    (
        'training people among the test people',
        lambda b: score_features(
            b.table(about=dict(trained_on='{"name": "SYSU-MM01", "identities": [1, 4]}')), SYSU()
        ),
        DataError,
        r'1 of 2 test identities were trained on \(4\).*worthless',
    ),
    (
        'trained_on that is no JSON',
        lambda b: score_features(b.table(about=dict(trained_on='RegDB')), SYSU()),
        DataError,
        'trained_on is RegDB; expected a JSON text with name and identities',
    ),
    (
        'features of NaN',
        lambda b: load_features(b.npz(features=np.full((2, 2), nan))),
        DataError,
        '2 of 2 features are NaN or infinite, the first is that of cam1/1.jpg',
    ),
    (
        'features that are whole numbers',
        lambda b: load_features(b.npz(features=np.eye(2, dtype=int))),
        DataError,
        'expected float16, float32 or float64',
    ),
    (
        'one record too few',
        lambda b: load_features(b.npz(identity=np.array([1]))),
        DataError,
        r'identity is int64 of shape \(1,\)',
    ),
    (
        'a third modality',
        lambda b: load_features(b.npz(modality=np.array([1, 2]))),
        DataError,
        r'modality 2 occurs; expected one of \(0, 1\)',
    ),
    (
        'a path out of the root',
        lambda b: load_features(b.npz(path=np.array(['../a.jpg', 'b.jpg']))),
        DataError,
        "relative to the dataset's root",
    ),
    (
        'objects that would run code',
        lambda b: load_features(b.npz(path=np.array([Path('a'), Path('b')], dtype=object))),
        DataError,
        'path holds objects that are not text .*nothing is unpickled',
    ),
    ('a folder', lambda b: load_features(b.new()), DataError, 'unknown ending'),
    (
        'another ending',
        lambda b: save_features(b.table(), b.new('a.pt')),
        DataError,
        'choose .safetensors or .npz',
    ),
    (
        'a folder that is not there',
        lambda b: save_features(b.table(), b.new() / 'none' / 'a.npz'),
        FileNotFoundError,
        'none: no such folder; make it first',
    ),
    (
        'a list of features',
        lambda b: b.table([[1.0]]),
        DataError,
        'features are list; expected a tensor of floats',
    ),
    (
        'words that are none',
        lambda b: b.table(about=dict(flip=True)),
        DataError,
        'expected words for words',
    ),
    (
        'a query of a third kind',
        lambda b: score_features(b.table(), SYSU(), 'thermal'),
        TypeCheckError,
        "(?s)parameter 'query'.*Actual value: 'thermal'.*'infrared', 'visible'",
    ),
    (
        'an identity that nobody has',
        lambda b: b.table().where(identity=99),
        DataError,
        'none of 32 features has identity 99',
    ),
    (
        'no images to embed',
        lambda b: embed(nn.Flatten(), b.test[:0], 8, 8),
        DataError,
        'no images; choose other rows',
    ),
    (
        'an unknown index',
        lambda b: to_faiss(b.table(), 'tree'),
        TypeCheckError,
        "(?s)parameter 'index_type'.*Actual value: 'tree'.*'flat', 'ivf'",
    ),
)

area(
    'configuration',
    (
        'a misspelt field',
        lambda b: TrainConfig.from_dict(dict(learning_rate=1.0)),
        ValueError,
        r"unknown settings \['learning_rate'\].* misspelt",
    ),
    (
        'a misspelt field of the model',
        lambda b: TrainConfig.from_dict(dict(model=dict(lamda_ip=1.0))),
        ValueError,
        r"unknown settings \['lamda_ip'\]",
    ),
    (
        'a number in words',
        lambda b: TrainConfig(P='12'),
        TypeError,
        "P = '12': expected int, not str",
    ),
    (
        'a learning rate of NaN',
        lambda b: TrainConfig(lr=nan),
        ValueError,
        'lr and clip must be positive, got nan',
    ),
    (
        'a weight of NaN',
        lambda b: IDKLConfig(lambda_csa=nan),
        ValueError,
        'lambda_csa must be a number of at least 0',
    ),
    (
        'a probability of 2',
        lambda b: TrainConfig(flip=2.0),
        ValueError,
        'flip is a probability, got 2.0',
    ),
    (
        'one milestone',
        lambda b: TrainConfig(milestones=13),
        TypeError,
        'milestones = 13: expected tuple',
    ),
    (
        'a precision that is none',
        lambda b: TrainConfig(precision='float16'),
        ValueError,
        "'bf16' or 'fp16', got 'float16'",
    ),
    (
        'True for a number',
        lambda b: IDKLConfig(taps=True),
        TypeError,
        'taps = True: expected int, not bool',
    ),
    (
        'a list for settings',
        lambda b: TrainConfig.from_dict([1]),
        TypeError,
        'expected a dictionary of settings',
    ),
    (
        'no training images',
        lambda b: fit(small, b.train[:0], b.new('run'), **quiet),
        ValueError,
        'only 0 identities',
    ),
    (
        'validation with training people',
        lambda b: fit(small, b.train, b.new('run'), b.train, **quiet),
        ValueError,
        'people who are trained on',
    ),
    (
        'validation in one light',
        lambda b: fit(small, b.train, b.new('run'), b.test.where(modality=VISIBLE), **quiet),
        ValueError,
        'images of both modalities',
    ),
    (
        'a file for a run',
        lambda b: fit(small, b.train, b.file(), **quiet),
        DataError,
        "this folder can't be made .* whether a file is in its place",
    ),
    (
        'a run in the place of another',
        lambda b: fit(small, b.train, b.run, **quiet),
        FileExistsError,
        'a run is here already. Go on with it by resume',
    ),
    (
        'resuming with other images',
        lambda b: resume(b.run, b.train[1:]),
        ValueError,
        'a resumed run needs the same',
    ),
    (
        'resuming what never began',
        lambda b: resume(b.new(), b.train),
        FileNotFoundError,
        'this folder does not hold a run',
    ),
    (
        'a config.json that is cut off',
        lambda b: load_run(b.spoiled('config.json', '{"config": {')),
        CheckpointError,
        'config.json: does not describe a run',
    ),
    (
        'weights that are cut off',
        lambda b: load_run(b.spoiled('weights.safetensors', b'x')),
        CheckpointError,
        'not the weights of this run, or damaged',
    ),
    (
        'weights of another run',
        lambda b: load_run(
            b.spoiled(
                'weights.safetensors',
                (save_file({'a': torch.zeros(2)}, file := b.new('w')) or file).read_bytes(),
            )
        ),
        CheckpointError,
        'not the weights of this run',
    ),
)

area(
    'command lines',
    (
        'idkl-train, a misspelt preset',
        lambda b: said(train_main, '--preset', 'smok'),
        SystemExit,
        'code 2: idkl-train: --preset smok: choose one of sysu-paper',
    ),
    (
        'idkl-train, a misspelt option',
        lambda b: said(train_main, '--preset', 'smoke', '--epoch', 3),
        SystemExit,
        r'(?s)code 2: .*Unrecognized options: --epoch.*--epochs',
    ),
    (
        'idkl-train, a word for a number',
        lambda b: said(train_main, '--preset', 'smoke', '--lr', 'fast'),
        SystemExit,
        '(?s)code 2: .*--lr FLOAT',
    ),
    (
        'idkl-train, a learning rate of NaN',
        lambda b: said(train_main, '--preset', 'smoke', '--lr', 'nan'),
        SystemExit,
        'code 2: idkl-train: lr and clip must be positive',
    ),
    (
        'idkl-train, no such dataset',
        lambda b: said(train_main, '--root', b.folder / 'none'),
        SystemExit,
        'code 2: idkl-train: .*none: no such folder',
    ),
    (
        'idkl-train, one folder too high',
        lambda b: said(train_main, '--root', b.folder),
        SystemExit,
        'code 2: .*Did you mean the folder llcm in it',
    ),
    (
        'idkl-train, a damaged dataset',
        lambda b: said(
            train_main,
            '--preset',
            'smoke',
            '--root',
            b.copy('sysu', 'exp/test_id.txt', '1,4'),
            '--out',
            b.new('run'),
        ),
        SystemExit,
        '(?s)code 2: .*identity in two splits.*errors in the dataset, see above',
    ),
    (
        'idkl-train, a trial of SYSU-MM01',
        lambda b: said(
            train_main,
            '--preset',
            'smoke',
            '--root',
            b.roots['sysu'],
            '--trial',
            2,
            '--out',
            b.new('run'),
        ),
        SystemExit,
        '--trial 2 is a choice of RegDB',
    ),
    (
        'idkl-train, resuming nothing',
        lambda b: said(train_main, '--resume', '--out', b.new('run')),
        SystemExit,
        'code 2: .*no run of idkl-train is here',
    ),
    (
        'idkl-train, a trial of a drawn world',
        lambda b: said(train_main, '--preset', 'smoke', '--trial', 2, '--out', b.new('run')),
        SystemExit,
        'code 2: .*--trial 2 is a choice of RegDB; leave it out for a drawn world',
    ),
    (
        'idkl-train, a coupling of a real dataset',
        lambda b: said(train_main, '--preset', 'smoke', '--root', b.roots['sysu'], '--coupling', 0),
        SystemExit,
        'code 2: .*--coupling is for a drawn world',
    ),
    (
        'idkl-train, a coupling of NaN',
        lambda b: said(train_main, '--preset', 'smoke', '--coupling', 'nan', '--out', b.new('run')),
        SystemExit,
        'code 2: .*coupling must be from 0',
    ),
    (
        'idkl-train, a device that is none',
        lambda b: said(train_main, '--preset', 'smoke', '--device', 'gpu'),
        SystemExit,
        'code 2: idkl-train: --device gpu',
    ),
    (
        'idkl-train, no gallery draws',
        lambda b: said(
            train_main,
            '--preset',
            'smoke',
            '--P',
            2,
            '--no-check',
            '--root',
            b.copy('sysu', 'exp/rand_perm_cam.mat', None),
            '--out',
            b.new('run'),
        ),
        SystemExit,
        'code 2: .*could not be scored after the training: '
        '.*rand_perm_cam.mat: the file of gallery draws is missing',
    ),
    (
        'idkl-train, resuming without a name',
        lambda b: said(train_main, '--resume'),
        SystemExit,
        'code 2: .*name the run with --out',
    ),
    (
        'idkl-train, a file for the output',
        lambda b: said(train_main, '--preset', 'smoke', '--out', b.file()),
        SystemExit,
        "code 2: .*this folder can't be made",
    ),
    (
        'idkl-train, an output where nobody may write',
        lambda b: said(train_main, '--preset', 'smoke', '--out', '/proc/idkl'),
        SystemExit,
        "code 2: idkl-train: /proc/idkl: this folder can't be made",
    ),
    (
        'idkl-train, weights that are none',
        lambda b: said(
            train_main,
            '--preset',
            'smoke',
            '--model.weights',
            b.file(b'x', 'w.pth'),
            '--root',
            b.roots['sysu'],
            '--out',
            b.new('run'),
            '--P',
            2,
        ),
        SystemExit,
        '(?s)code 2: .*w.pth: not a state dictionary',
    ),
    (
        'idkl-embed, no network',
        lambda b: said(embed_main, '--images', b.folder, '--out', b.new('a.npz')),
        SystemExit,
        'code 2: .*either --run or --released',
    ),
    (
        'idkl-embed, no run',
        lambda b: said(
            embed_main, '--images', b.roots['sysu'], '--run', b.new(), '--out', b.new('a.npz')
        ),
        SystemExit,
        'code 2: .*does not hold a run',
    ),
    (
        'idkl-embed, a folder above the run',
        lambda b: said(
            embed_main, '--images', b.roots['sysu'], '--run', b.folder, '--out', b.new('a.npz')
        ),
        SystemExit,
        'code 2: .*does not hold a run. Expected the folder that idkl-train named',
    ),
    (
        'idkl-embed, a height for a run',
        lambda b: said(
            embed_main,
            '--images',
            b.roots['sysu'],
            '--run',
            b.run,
            '--out',
            b.new('a.npz'),
            '--height',
            64,
        ),
        SystemExit,
        'code 2: .*a run knows its own',
    ),
    (
        'idkl-embed, people whom the run has seen',
        lambda b: said(
            embed_main,
            '--images',
            b.seen,
            '--run',
            b.folder / 'runs' / 'named',
            '--out',
            b.new('a.npz'),
        ),
        SystemExit,
        r'code 2: .*1 of 2 test identities were trained on \(1\)',
    ),
    (
        'idkl-embed, a device that is none',
        lambda b: said(
            embed_main,
            '--images',
            b.roots['sysu'],
            '--run',
            b.run,
            '--out',
            b.new('a.npz'),
            '--device',
            'gpu',
        ),
        SystemExit,
        'code 2: idkl-embed: --device gpu',
    ),
    (
        'idkl-embed, a folder without images',
        lambda b: images_below(b.new(), VISIBLE),
        DataError,
        'no image below this folder. Expected files that end in .jpg',
    ),
    (
        'idkl-evaluate, a protocol of another dataset',
        lambda b: said(evaluate_main, '--features', b.saved(), '--protocol', 'regdb'),
        SystemExit,
        'code 2: .*these are images of SYSU-MM01, and --protocol regdb is of RegDB',
    ),
    (
        'idkl-evaluate, one file twice',
        lambda b: said(evaluate_main, '--features', file := b.saved(), file, '--protocol', 'regdb'),
        SystemExit,
        'code 2: .*is named twice',
    ),
    (
        'idkl-evaluate, an image that is missing',
        lambda b: said(
            evaluate_main,
            '--features',
            b.saved(b.features[1:], b.test[1:]),
            '--protocol',
            'sysu-all-single',
            '--root',
            b.roots['sysu'],
        ),
        SystemExit,
        r'code 2: .*1 of 32 test images of the dataset sysu are missing: cam1/0004/0001.jpg',
    ),
    (
        'idkl-evaluate, no such file',
        lambda b: said(evaluate_main, '--features', 'none.npz', '--protocol', 'llcm'),
        SystemExit,
        'code 2: idkl-evaluate: none.npz: no such file',
    ),
    (
        'idkl-evaluate, too few images to re-rank',
        lambda b: said(
            evaluate_main, '--features', saved(b), '--protocol', 'llcm-whole', '--rerank', 'gallery'
        ),
        SystemExit,
        '(?s)^code 2: idkl-evaluate: re-ranking (?!.*k1).*more than 20 images.*no --rerank',
    ),
    (
        'idkl-evaluate, one camera number for all images',
        lambda b: said(evaluate_main, '--features', saved(b, camera=0), '--protocol', 'llcm'),
        SystemExit,
        'code 2: idkl-evaluate: none of the 16 queries .*camera rule',
    ),
    (
        'idkl-check, no such folder',
        lambda b: said(check_main, b.folder / 'none'),
        SystemExit,
        'code 2: idkl-check: .*none: no such folder',
    ),
    (
        'idkl-check, a misspelt option',
        lambda b: said(check_main, b.folder, '--quik'),
        SystemExit,
        '(?s)code 2: .*Unrecognized options: --quik',
    ),
    (
        'idkl-check, trial 77 of RegDB',
        lambda b: said(check_main, b.roots['regdb'], '--trial', 77),
        SystemExit,
        'code 2: .*RegDB has trials 1 to 10',
    ),
    (
        'idkl-check, a report in no folder',
        lambda b: said(check_main, b.roots['sysu'], '--json', b.folder / 'none' / 'x.json'),
        SystemExit,
        'code 2: .*none: no such folder; make it first',
    ),
)

cases = {f'{case.area}: {case.what}': case for case in _cases}


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp('bench'))


def outcome(case, bench):
    "What comes out: the exception"
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter('ignore')
        try:
            case.do(bench)
        except (Exception, SystemExit) as error:
            return error


@pytest.mark.parametrize('name', cases)
def test_bad_input_gets_its_message(name, bench):
    error, case = outcome(cases[name], bench), cases[name]
    assert error is not None, 'nothing was said'
    assert type(error) is case.exception, repr(error)
    assert re.search(case.message, str(error)), str(error)


def test_there_are_enough_cases():
    assert len(cases) == len(_cases) >= 60  # no name twice
    assert {case.area for case in _cases} >= {
        'readers',
        'sampler',
        'transforms',
        'losses',
        'metrics',
        're-ranking',
        'protocols',
        'checkpoints',
        'feature files',
        'configuration',
        'command lines',
    }


def test_a_refused_command_leaves_nothing(bench):
    "What is refused before it begins makes no folder that the next call would stumble over"
    for words in (['--lr', 'nan'], ['--P', '99'], ['--resume']):
        out = bench.new('run')
        with pytest.raises(SystemExit):
            said(
                train_main, '--preset', 'smoke', '--root', bench.roots['sysu'], '--out', out, *words
            )
        assert not (out / 'model').exists()


# What must work


@pytest.mark.parametrize(
    'name',
    [
        'with spaces',
        'Bücher und größer',
        '人の再同定',
        "it's [1]* {x} %d $HOME",
        'ends with a dot.',
        '-rf',
    ],
)
def test_names_that_must_work(name, bench, tmp_path):
    "From a dataset to a table of scores through folders of this name"
    root = shutil.copytree(bench.roots['sysu'], tmp_path / name / name)
    assert check(root, **quiet).root == root and not check(root, **quiet).errors
    said(
        train_main,
        '--preset',
        'smoke',
        '--epochs',
        1,
        '--batches',
        1,
        '--P',
        2,
        '--root',
        root,
        f'--out={tmp_path / name / "run"}',
    )
    said(
        embed_main,
        '--images',
        root,
        '--run',
        tmp_path / name / 'run' / 'model',
        f'--out={tmp_path / name / name}.npz',
    )
    said(
        evaluate_main,
        '--features',
        f'{tmp_path / name / name}.npz',
        '--protocol',
        'sysu-all-single',
        '--root',
        root,
        f'--json={tmp_path / name / "scores.json"}',
    )
    about = json.loads((tmp_path / name / 'scores.json').read_text())['about']
    assert about['version'] == 'SYSU-MM01'  # and no name of a folder


@pytest.mark.parametrize('layout', ['sysu', 'regdb', 'llcm'])
def test_links_are_followed_and_reported(layout, bench, tmp_path):
    "A linked root and images linked out of it are read as if here; idkl-check names the latter"
    root = bench.copy(layout)
    expected = read_dataset(root)
    file = root / expected.path[0]
    file.rename(tmp_path / 'elsewhere')
    file.symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'link').symlink_to(root, target_is_directory=True)
    found = read_dataset(tmp_path / 'link')
    assert found.path.tolist() == expected.path.tolist()
    assert Images(found, eval_transform(8, 8))[0].images.shape == (3, 8, 8)
    assert [
        f.path
        for f in check(tmp_path / 'link', **quiet).findings
        if f.kind == 'link out of the root'
    ] == [expected.path[0]]
    (tmp_path / 'elsewhere').unlink()
    if layout != 'sysu':
        with pytest.raises(DataError, match='is not there'):
            read_dataset(root)
    with pytest.raises(DataError, match='missing or damaged'):
        Images(found, eval_transform(8, 8))[0]


# Fuzzing

bounded = bounds(max_examples=150, deadline=None, derandomize=True, database=None)
words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            '1',
            '4',
            '0',
            '-1',
            '1.5',
            '.',
            '..',
            '/',
            'Thermal/1/thermal_00.bmp',
            'Thermal\\2\\thermal_00.bmp',
            'thermal',
            '9' * 30,
            '\0',
            '\x85',
            '\ufeff',
            ',',
            ';',
            '#',
        ]
    ),
)
contents = st.one_of(
    st.binary(max_size=60),
    st.lists(st.lists(words, max_size=4).map(' '.join), max_size=5).map(
        lambda lines: '\n'.join(lines).encode('utf-8', 'surrogatepass')
    ),
)


@pytest.mark.parametrize(
    'layout, file',
    [
        ('sysu', 'exp/test_id.txt'),
        ('regdb', 'idx/test_thermal_1.txt'),
        ('llcm', 'idx/train_nir.txt'),
    ],
)
def test_any_list_is_read_or_refused_in_words(layout, file, bench):
    root, outcomes = bench.copy(layout), {True: 0, False: 0}

    @bounded
    @given(contents)
    def read(content):
        (root / file).write_bytes(content)
        try:
            records = read_dataset(root)
        except DataError as error:
            outcomes[False] += 1
            assert root.name in str(error)  # it says where
        else:
            outcomes[True] += 1
            assert records.identity.dtype == np.int64 and all(
                (root / path).is_file() for path in records.path
            )

    read()
    (root / file).write_bytes((bench.roots[layout] / file).read_bytes())
    assert len(read_dataset(root)) and outcomes[False] > 100, outcomes


@bounded
@given(
    st.integers(0, 2**32),
    st.integers(-1, 6),
    st.integers(-1, 5),
    st.one_of(st.none(), st.integers(-1, 9)),
    st.integers(-1, 3),
)
def test_the_sampler_keeps_its_promise_or_says_why_not(seed, P, K, batches, epoch):
    rng = np.random.default_rng(seed)
    N = int(rng.integers(0, 40))
    records = Records.from_rows(
        'nowhere',
        [
            (f'{n}.jpg', who, 1, kind, 'train')
            for n, (who, kind) in enumerate(
                zip(rng.integers(-3, 6, N).tolist(), rng.integers(0, 2, N).tolist())
            )
        ],
    )
    whole = [
        who
        for who in np.unique(records.identity)
        if len(set(records.modality[records.identity == who])) == 2
    ]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            sampler = PKSampler(records, P, K, batches, max(epoch, 0))
        except ValueError as error:
            assert P < 2 or K < 1 or batches is not None and batches < 1 or len(whole) < P, error
            return
    assert P >= 2 and K >= 1 and len(whole) >= P
    sampler.set_epoch(max(epoch, 0))
    planned = list(sampler)
    assert len(planned) == len(sampler) >= 1
    for batch in planned:
        who, kind = records.identity[batch], records.modality[batch]
        assert len(batch) == 2 * P * K and len(set(who)) == P
        assert all(
            ((who == one) & (kind == light)).sum() == K
            for one in set(who)
            for light in (VISIBLE, INFRARED)
        )


@bounded
@given(
    st.integers(0, 2**32),
    st.integers(0, 5),
    st.integers(0, 6),
    st.sampled_from(['right', 'nan', 'inf', 'short', 'turned', 'mask', 'text']),
    st.booleans(),
)
def test_the_metrics_score_or_say_why_not(seed, Q, G, how, unique_ids):
    rng = np.random.default_rng(seed)
    d = rng.random((Q, G))
    query = rng.integers(0, 3, Q)
    gallery = rng.integers(0, 3, G)
    ignore = rng.random((Q, G)) < 0.3
    if how in ('nan', 'inf') and d.size:
        d.flat[rng.integers(d.size)] = dict(nan=nan, inf=-np.inf)[how]
    if how == 'short':
        query = query[1:]
    if how == 'turned':
        d = d.T
    if how == 'mask':
        ignore = ignore.astype(int)
    if how == 'text':
        gallery = 'gallery'
    try:
        scores = retrieval_scores(d, query, gallery, ignore, unique_ids)
    except (ValueError, TypeCheckError) as error:
        assert len(str(error)) > 20
    else:
        assert how == 'right' or how == 'turned' and Q == G
        assert 0 < scores.valid <= scores.queries == Q
        assert 0 <= scores.mAP <= 1 and 0 < scores.mINP <= 1
        assert (scores.cmc.diff() >= 0).all() and scores.cmc[-1] == 1
