"The check of a dataset: every kind of damage is found, by its kind and its place, nothing else."

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import command as command_of
from PIL import Image
from scipy.io import loadmat, savemat

from idkl_nb.check import check, check_main
from idkl_nb.check_folders import dataset_folder
from idkl_nb.check_images import check_image
from idkl_nb.check_people import check_people
from idkl_nb.common import INFRARED, VISIBLE, DataError, printable
from idkl_nb.findings import KINDS, SEVERITIES, Report, finding
from idkl_nb.layouts import DATASETS
from idkl_nb.readers import read_dataset
from idkl_nb.reading_images import MAX_PIXELS
from idkl_nb.records import ListedImage
from idkl_nb.sysu_draws import read_sysu_draws
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

small = World(height=64, width=32)
FIRST = 'cam1/0001/0001.jpg'
TRAIN_LIST = 'idx/train_visible_1.txt'


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp('clean')
    return {
        'SYSU-MM01': write_sysu(small, folder / 'sysu', [1, 2], [3], [4, 5], images=4),
        'RegDB': write_regdb(small, folder / 'regdb', range(1, 5), images=3),
        'LLCM': write_llcm(small, folder / 'llcm', [1, 2], [3, 4], images=2),
    }


@pytest.fixture(scope='module')
def clean(roots):
    return {name: check(root, progress=False) for name, root in roots.items()}


# What is done to a copy of a dataset


def add(root, file, *lines):
    with open(root / file, 'a') as opened:
        opened.write(''.join(f'{line}\n' for line in lines))


def change(root, file, old, new):
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))


def cut(root, file):
    (root / file).write_bytes((root / file).read_bytes()[:-200])


def save_picture(root, file, mode='RGB', size=(32, 64), kind=None):
    image = Image.new('RGB', size, (len(file), 99, 9))
    if '16' in mode:
        image = image.convert('L')
    image.convert(mode).save(root / file, kind)


def delete(root, *files):
    for file in files:
        if (root / file).is_dir():
            shutil.rmtree(root / file)
        else:
            (root / file).unlink()


def relink(root, file, target):
    delete(root, file)
    (root / file).symlink_to(target)


def elsewhere(root, file):
    moved = root.with_name(root.name + '-moved')
    shutil.move(root / file, moved)
    (root / file).symlink_to(moved)


def mat(root, make):
    cells = loadmat(root / 'exp/rand_perm_cam.mat')['rand_perm_cam']
    savemat(root / 'exp/rand_perm_cam.mat', make(cells))


def redraw(cells, draw):
    cells[0, 0][3, 0] = draw  # of camera 1, identity 4
    return dict(rand_perm_cam=cells)


def regdb_line(root, split, number, name='visible'):
    return (root / f'idx/{split}_{name}_1.txt').read_text().splitlines()[number]


def unused_folders(identity):
    return {('images not in use', f'cam{camera}/{identity:04d}') for camera in range(1, 7)}


CASES = [  # dataset, what was done, how, the findings that must be added: (kind, path)
    (
        'SYSU-MM01',
        'folder cam6 removed',
        lambda root: delete(root, 'cam6'),
        {('missing folder', 'cam6')},
    ),
    (
        'SYSU-MM01',
        'val_id.txt removed',
        lambda root: delete(root, 'exp/val_id.txt'),
        {('list file', 'exp/val_id.txt')} | unused_folders(3),
    ),
    (
        'SYSU-MM01',
        'val_id.txt empty',
        lambda root: (root / 'exp/val_id.txt').write_text(''),
        {('list file', 'exp/val_id.txt')} | unused_folders(3),
    ),
    (
        'SYSU-MM01',
        'val_id.txt only commas',
        lambda root: (root / 'exp/val_id.txt').write_text(',,'),
        {('list file', 'exp/val_id.txt')} | unused_folders(3),
    ),
    (
        'SYSU-MM01',
        'val_id.txt not text',
        lambda root: (root / 'exp/val_id.txt').write_bytes(b'\xff\xfe\x00'),
        {('list file', 'exp/val_id.txt')} | unused_folders(3),
    ),
    (
        'SYSU-MM01',
        'val_id.txt holds "3,x"',
        lambda root: (root / 'exp/val_id.txt').write_text('3,x'),
        {('list line', 'exp/val_id.txt')},
    ),
    (
        'SYSU-MM01',
        'identity 77 listed',
        lambda root: add(root, 'exp/test_id.txt', ',77'),
        {('identity without images', 'exp/test_id.txt')},
    ),
    (
        'SYSU-MM01',
        'identity 1 also in test',
        lambda root: add(root, 'exp/test_id.txt', ',1'),
        {('identity in two splits', 'exp/test_id.txt')},
    ),
    (
        'SYSU-MM01',
        'identity 1 also in val',
        lambda root: add(root, 'exp/val_id.txt', ',1'),
        {('identity in two splits', 'exp/val_id.txt')},
    ),
    (
        'SYSU-MM01',
        'identity 1 without infrared',
        lambda root: delete(root, 'cam3/0001', 'cam6/0001'),
        {('one modality', 'exp/train_id.txt')},
    ),
    (
        'SYSU-MM01',
        '1 and 2 without infrared',
        lambda root: delete(root, *(f'cam{c}/000{i}' for c in (3, 6) for i in (1, 2))),
        {('one modality', 'exp/train_id.txt'), ('too few people', 'exp/train_id.txt')},
    ),
    (
        'SYSU-MM01',
        'no infrared test image',
        lambda root: delete(root, *(f'cam{c}/000{i}' for c in (3, 6) for i in (4, 5))),
        {('one modality', 'exp/test_id.txt'), ('too few people', 'exp/test_id.txt')},
    ),
    (
        'SYSU-MM01',
        'image emptied',
        lambda root: (root / FIRST).write_bytes(b''),
        {('empty image', FIRST)},
    ),
    ('SYSU-MM01', 'image cut off', lambda root: cut(root, FIRST), {('truncated image', FIRST)}),
    (
        'SYSU-MM01',
        'text in place of an image',
        lambda root: (root / FIRST).write_text('404 Not Found'),
        {('unreadable image', FIRST)},
    ),
    (
        'SYSU-MM01',
        'decompression bomb',
        lambda root: save_picture(root, FIRST, '1', (6000, 6000), 'PNG'),
        {('huge image', FIRST)},
    ),
    (
        'SYSU-MM01',
        'visible image in grey',
        lambda root: save_picture(root, FIRST, 'L'),
        {('unusual mode', FIRST)},
    ),
    (
        'SYSU-MM01',
        'visible image in CMYK',
        lambda root: save_picture(root, FIRST, 'CMYK'),
        {('unusual mode', FIRST)},
    ),
    (
        'SYSU-MM01',
        'PNG of 16 bits named .jpg',
        lambda root: save_picture(root, FIRST, 'I;16', kind='PNG'),
        {('more than 8 bits', FIRST)},
    ),
    (
        'SYSU-MM01',
        'PNG named .jpg',
        lambda root: save_picture(root, FIRST, kind='PNG'),
        {('format', FIRST)},
    ),
    (
        'SYSU-MM01',
        'named 1.JPG, not 0001.jpg',
        lambda root: (root / FIRST).rename(root / 'cam1/0001/1.JPG'),
        {('odd name', 'cam1/0001/1.JPG')},
    ),
    (
        'SYSU-MM01',
        'thumbnail of 4 x 8',
        lambda root: save_picture(root, FIRST, size=(4, 8)),
        {('unusual size', FIRST)},
    ),
    (
        'SYSU-MM01',
        'image in 320 x 640',
        lambda root: save_picture(root, FIRST, size=(320, 640)),
        {('unusual size', FIRST)},
    ),
    (
        'SYSU-MM01',
        'copied within one identity',
        lambda root: shutil.copy(root / FIRST, root / 'cam2/0001/0001.jpg'),
        {('duplicate image', 'cam2/0001/0001.jpg')},
    ),
    (
        'SYSU-MM01',
        'copied to another identity',
        lambda root: shutil.copy(root / FIRST, root / 'cam1/0004/0001.jpg'),
        {('picture of two people', 'cam1/0004/0001.jpg')},
    ),
    (
        'SYSU-MM01',
        'copied to an infrared camera',
        lambda root: shutil.copy(root / FIRST, root / 'cam3/0001/0001.jpg'),
        {('picture in two modalities', 'cam3/0001/0001.jpg')},
    ),
    (
        'SYSU-MM01',
        '0001.png beside 0001.jpg',
        lambda root: save_picture(root, 'cam1/0001/0001.png', kind='PNG'),
        {('images not in use', 'cam1/0001')},
    ),
    (
        'SYSU-MM01',
        'Thumbs.db, and 0001.tif for 0001.jpg',
        lambda root: (
            (root / 'cam1/0001/Thumbs.db').write_bytes(b''),
            (root / FIRST).rename(root / 'cam1/0001/0001.tif'),
        ),
        {('files not in use', 'cam1/0001/0001.tif')},
    ),
    (
        'SYSU-MM01',
        'folder named 1, not 0001',
        lambda root: (root / 'cam1/0001').rename(root / 'cam1/1'),
        {('images not in use', 'cam1/1')},
    ),
    (
        'SYSU-MM01',
        'folder named 00001',
        lambda root: (root / 'cam1/0001').rename(root / 'cam1/00001'),
        {('images not in use', 'cam1/00001')},
    ),
    (
        'SYSU-MM01',
        'macOS leftovers ._0001.jpg',
        lambda root: [
            file.with_name(f'._{file.name}').write_bytes(b'\0\5\x16\7')
            for file in list(root.rglob('*.jpg'))
        ],
        {('hidden files', 'cam1/0001/._0001.jpg')},
    ),
    (
        'SYSU-MM01',
        'image is a folder',
        lambda root: (delete(root, FIRST), (root / FIRST).mkdir()),
        {('not a file', FIRST)},
    ),
    (
        'SYSU-MM01',
        'image is a link to nothing',
        lambda root: relink(root, FIRST, 'nowhere'),
        {('not a file', FIRST)},
    ),
    (
        'SYSU-MM01',
        'image is a link to itself',
        lambda root: relink(root, FIRST, '0001.jpg'),
        {('not a file', FIRST)},
    ),
    (
        'SYSU-MM01',
        'image is a pipe',
        lambda root: (delete(root, FIRST), os.mkfifo(root / FIRST)),
        {('not a file', FIRST)},
    ),
    (
        'SYSU-MM01',
        'cam1 moved, a link left',
        lambda root: elsewhere(root, 'cam1'),
        {('link out of the root', 'cam1')},
    ),
    (
        'SYSU-MM01',
        'image moved, a link left',
        lambda root: elsewhere(root, FIRST),
        {('link out of the root', FIRST)},
    ),
    (
        'SYSU-MM01',
        'link into a circle',
        lambda root: (root / 'cam1/again').symlink_to('..'),
        {
            ('unreadable folder', 'cam1/again/cam1'),
            ('files not in use', 'cam1/again/exp/rand_perm_cam.mat'),
        }
        | {
            ('images not in use', f'cam1/again/cam{c}/000{i}')
            for c in range(2, 7)
            for i in range(1, 6)
        },
    ),
    (
        'SYSU-MM01',
        'no rand_perm_cam.mat',
        lambda root: delete(root, 'exp/rand_perm_cam.mat'),
        {('gallery draws', 'exp/rand_perm_cam.mat')},
    ),
    (
        'SYSU-MM01',
        'rand_perm_cam.mat is a web page',
        lambda root: (root / 'exp/rand_perm_cam.mat').write_text('<html>' * 99),
        {('gallery draws', 'exp/rand_perm_cam.mat')},
    ),
    (
        'SYSU-MM01',
        'rand_perm_cam.mat of 3 cameras',
        lambda root: mat(root, lambda cells: dict(rand_perm_cam=cells[:3])),
        {('gallery draws', 'exp/rand_perm_cam.mat')},
    ),
    (
        'SYSU-MM01',
        'rand_perm_cam.mat of numbers',
        lambda root: mat(root, lambda cells: dict(rand_perm_cam=np.eye(6))),
        {('gallery draws', 'exp/rand_perm_cam.mat')},
    ),
    (
        'SYSU-MM01',
        'rand_perm_cam.mat: no permutation',
        lambda root: mat(root, lambda cells: redraw(cells, np.full((10, 1), 2))),
        {('gallery draws', 'exp/rand_perm_cam.mat')},
    ),
    (
        'SYSU-MM01',
        'rand_perm_cam.mat of 9 trials',
        lambda root: mat(root, lambda cells: redraw(cells, np.ones((9, 1)))),
        {('gallery draws', 'exp/rand_perm_cam.mat')},
    ),
    (
        'SYSU-MM01',
        'rand_perm_cam.mat of words',
        lambda root: mat(root, lambda cells: redraw(cells, 'words')),
        {('gallery draws', 'exp/rand_perm_cam.mat')},
    ),
    (
        'SYSU-MM01',
        'rand_perm_cam.mat permutes 2 of 1',
        lambda root: mat(root, lambda cells: redraw(cells, np.tile([1, 2], (10, 1)))),
        {('gallery draws', 'cam1/0004')},
    ),
    (
        'RegDB',
        'folder Thermal removed',
        lambda root: delete(root, 'Thermal'),
        {('missing folder', 'Thermal')}
        | {
            ('missing image', f'Thermal/{i}/thermal_0{n}.bmp')
            for i in range(1, 5)
            for n in range(3)
        },
    ),
    (
        'RegDB',
        'an image removed',
        lambda root: delete(root, 'Visible/1/visible_00.bmp'),
        {('missing image', 'Visible/1/visible_00.bmp')},
    ),
    (
        'RegDB',
        'a .bmp cut off',
        lambda root: cut(root, 'Visible/1/visible_00.bmp'),
        {('truncated image', 'Visible/1/visible_00.bmp')},
    ),
    (
        'RegDB',
        'an image too many',
        lambda root: save_picture(root, 'Visible/1/new.bmp'),
        {('images not in use', 'Visible/1')},
    ),
    (
        'RegDB',
        'lists of trials 4 to 10 removed',
        lambda root: delete(
            root,
            *(
                f'idx/{s}_{m}_{t}.txt'
                for t in range(4, 11)
                for s in ('train', 'test')
                for m in ('visible', 'thermal')
            ),
        ),
        {('missing trials', 'idx')},
    ),
    (
        'RegDB',
        'a list of trial 1 removed',
        lambda root: delete(root, TRAIN_LIST),
        {
            ('list file', TRAIN_LIST),
            ('one modality', 'idx/train_thermal_1.txt'),
            ('too few people', 'idx/train_thermal_1.txt'),
        },
    ),
    (
        'RegDB',
        'a line "../../passwords 0"',
        lambda root: add(root, TRAIN_LIST, '../../passwords 0'),
        {('path leaves the root', f'{TRAIN_LIST}, line 7')},
    ),
    (
        'RegDB',
        'a line "C:\\x\\1\\a.bmp 0"',
        lambda root: add(root, TRAIN_LIST, 'C:\\x\\1\\a.bmp 0'),
        {('path leaves the root', f'{TRAIN_LIST}, line 7')},
    ),
    (
        'RegDB',
        'a line ". 0", and one without label',
        lambda root: add(root, TRAIN_LIST, '. 0', 'Visible/1/visible_00.bmp'),
        {('list line', f'{TRAIN_LIST}, line 7'), ('list line', f'{TRAIN_LIST}, line 8')},
    ),
    (
        'RegDB',
        'a folder that is no number',
        lambda root: add(root, TRAIN_LIST, 'Visible/one/a.bmp 0'),
        {('list line', f'{TRAIN_LIST}, line 7')},
    ),
    (
        'RegDB',
        'a line that names ._a.bmp',
        lambda root: add(root, TRAIN_LIST, 'Visible/1/._a.bmp 0'),
        {('hidden files', f'{TRAIN_LIST}, line 7')},
    ),
    (
        'RegDB',
        'a label of 5,000 digits',
        lambda root: add(root, TRAIN_LIST, 'Visible/1/visible_00.bmp ' + '9' * 5000),
        {('list line', f'{TRAIN_LIST}, line 7')},
    ),
    (
        'RegDB',
        'a label changed in one line',
        lambda root: change(
            root, TRAIN_LIST, regdb_line(root, 'train', 5), regdb_line(root, 'train', 5)[:-1] + '7'
        ),
        {('labels', f'{TRAIN_LIST}, line 6')},
    ),
    (
        'RegDB',
        'one label for two identities',
        lambda root: change(root, TRAIN_LIST, '.bmp 1', '.bmp 0'),
        {('labels', f'{TRAIN_LIST}, line {n}') for n in (4, 5, 6)},
    ),
    (
        'RegDB',
        'a line twice',
        lambda root: add(root, TRAIN_LIST, regdb_line(root, 'train', 0)),
        {('listed twice', f'{TRAIN_LIST}, line 7')},
    ),
    (
        'RegDB',
        'a thermal image in a visible list',
        lambda root: add(root, TRAIN_LIST, regdb_line(root, 'train', 0, 'thermal')),
        {('wrong modality', f'{TRAIN_LIST}, line 7')},
    ),
    (
        'RegDB',
        'a test identity in a training list',
        lambda root: add(root, TRAIN_LIST, regdb_line(root, 'test', 0)[:-1] + '9'),
        {('identity in two splits', 'idx/test_visible_1.txt'), ('one modality', TRAIN_LIST)},
    ),
    (
        'LLCM',
        'folder test_nir removed',
        lambda root: delete(root, 'test_nir'),
        {('missing folder', 'test_nir')}
        | {
            ('missing image', f'test_nir/cam{c}/000{i}/000{i}_c0{c}_s000000_f0000_nir.jpg')
            for c in (1, 2)
            for i in (3, 4)
        },
    ),
    (
        'LLCM',
        'a name without camera, and one with 12',
        lambda root: (
            (root / 'vis/0001/a.jpg').write_bytes(b''),
            add(root, 'idx/train_vis.txt', 'vis/0001/a.jpg 0', 'vis/0001/b_c12_.jpg 0'),
        ),
        {
            ('camera', 'vis/0001/a.jpg'),
            ('empty image', 'vis/0001/a.jpg'),
            ('camera', 'vis/0001/b_c12_.jpg'),
            ('missing image', 'vis/0001/b_c12_.jpg'),
        },
    ),
    (
        'LLCM',
        'a list with nothing but spaces',
        lambda root: (root / 'idx/test_nir.txt').write_text(' \n'),
        {
            ('list file', 'idx/test_nir.txt'),
            ('one modality', 'idx/test_vis.txt'),
            ('too few people', 'idx/test_vis.txt'),
        }
        | {('images not in use', f'test_nir/cam{c}/000{i}') for c in (1, 2) for i in (3, 4)},
    ),
]


def places(findings):
    return {(one.kind, one.path) for one in findings}


def broken(root, damage, folder):
    "A damaged copy in a folder of its own"
    copy = shutil.copytree(root, folder / root.name)
    damage(copy)
    return copy


@pytest.fixture(scope='module')
def reports(roots, tmp_path_factory):
    "One of each case"
    made = {}
    for dataset, done, damage, _ in CASES:
        root = broken(roots[dataset], damage, tmp_path_factory.mktemp('broken'))
        made[dataset, done] = check(root, progress=False)
    return made


def test_a_drawn_world_has_other_counts_than_the_published_datasets_and_no_other_fault(
    roots, clean
):
    for report in clean.values():
        assert {one.kind for one in report.findings} == {'count'}
        assert report.code == 0
        quick = check(report.root, quick=True, progress=False)
        assert quick.findings == report.findings
    assert [report.images for report in clean.values()] == [5 * 2 * 4, 4 * 2 * 3, 4 * 2 * 2]
    assert len(check(roots['RegDB'], trial=3, progress=False).findings) == 6
    assert len(clean['RegDB'].findings) == 60


@pytest.mark.parametrize('case', CASES, ids=[f'{dataset}, {done}' for dataset, done, *_ in CASES])
def test_each_damage_adds_its_findings_and_no_others(case, reports, clean):
    dataset, done, _, expected = case
    reported = places(reports[dataset, done].findings)
    assert reported - places(clean[dataset].findings) == expected


def test_every_kind_is_seen_with_its_severity_and_its_cure(reports):
    "But for three that depend on the case"
    findings = [(report, one) for report in reports.values() for one in report.findings]
    elsewhere = {"name that can't be kept", 'too many folders'}  # tests/test_promises.py
    assert {one.kind for _, one in findings} == set(KINDS) - elsewhere
    for report, one in findings:
        severity, cure = KINDS[one.kind]
        if one.severity != severity:
            assert (one.kind, one.severity) == ('identity in two splits', 'warning')
        assert one.cure == (DATASETS[report.dataset].help if one.kind == 'list file' else cure)


def test_an_identity_trained_on_twice_is_no_error(reports):
    assert reports['SYSU-MM01', 'identity 1 also in test'].code == 1
    assert reports['SYSU-MM01', 'identity 1 also in val'].code == 0


def test_draws_that_no_gallery_uses_are_a_note(roots, tmp_path):
    "Identity 1 is for training"
    root = broken(
        roots['SYSU-MM01'], lambda root: save_picture(root, 'cam1/0001/0002.jpg'), tmp_path
    )
    report = check(root, progress=False)
    draws = [one for one in report.findings if one.kind == 'gallery draws']
    assert [(one.severity, one.path) for one in draws] == [('note', 'cam1/0001')]


def read_everything(root, dataset):
    "What the readers refuse raises; then every image is opened"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of what is not used
        tables = [read_dataset(root, trial) for trial in (1, 2, 3)]
    if dataset == 'SYSU-MM01':
        read_sysu_draws(root)
    return tables[-1]


def test_what_a_reader_refuses_is_an_error_and_what_has_no_error_reads(reports):
    refused = 0
    for (dataset, done), report in reports.items():
        try:
            records = read_everything(report.root, dataset)
        except Exception:
            refused += 1
            assert report.code == 1, done
            continue
        if report.code == 0:
            for path in records.path:
                Image.open(records.root / path).convert('RGB')
    assert refused == 30
    assert sum(report.code for report in reports.values()) == 46


# Nobody thought of these

WORDS = ['Visible/1/visible_00.bmp', '0', '-1', '.', '..', '/', '\\', ':', '~', 'Visible', '//']
WORDS += ['\0', 'ä', '\u2028', '\t', '٣', '9' * 30, 'x' * 300, 'C:', ',', '\n', '  ']


def scramble(text, rng):
    "Random words, the text with some bytes changed, or random bytes"
    form = rng.integers(3)
    if form == 0:
        count = rng.integers(1, 12)
        ends = ['/', ' ', '\n', '']
        return ''.join(rng.choice(WORDS) + rng.choice(ends) for _ in range(count)).encode()
    data = bytearray(text) if form == 1 else bytearray(rng.bytes(40))
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(len(data))] = rng.integers(256)
    return bytes(data)


def test_scrambled_lists_give_a_report_and_what_has_no_error_reads(roots, tmp_path):
    rng = np.random.default_rng(0)
    codes = Counter()
    files = []
    for name, root in roots.items():
        copy = shutil.copytree(root, tmp_path / root.name)
        lists = sorted((copy / ('exp' if name == 'SYSU-MM01' else 'idx')).iterdir())
        files += [(copy, file) for file in lists if name != 'RegDB' or file.stem.endswith('_1')]

    for _ in range(200):
        root, file = files[rng.integers(len(files))]
        before = file.read_bytes()
        file.write_bytes(scramble(before, rng))
        report = check(root, trial=1, quick=True, workers=0, progress=False)
        codes[report.code] += 1
        str(report).encode()
        json.dumps(report.to_dict())
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if report.code == 0:
                read_dataset(root, 1)
        file.write_bytes(before)
    assert codes.total() == 200
    assert codes[1] > 150


# Whose folder is it?


@pytest.mark.parametrize(
    'name, message',
    [
        ('.', 'Did you mean the folder llcm'),
        ('llcm/idx', 'one level too deep'),
        ('no', 'no such folder'),
        ('\0', 'no such folder'),
    ],
)
def test_folders_that_are_no_dataset(roots, name, message):
    with pytest.raises(DataError, match=message):
        dataset_folder(roots['LLCM'].parent / name)


@pytest.mark.parametrize(
    'root, message', [('~nobody-of-this-name', "can't be looked at"), ('x' * 300, 'xxx: ')]
)
def test_folders_that_nobody_can_look_at(root, message):
    with pytest.raises(DataError, match=message):
        dataset_folder(root)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(trial=11), 'trials 1 to 10'),
        (dict(trial=0), 'trials 1 to 10'),
        (dict(workers=-1), 'expected 0 to 128'),
    ],
)
def test_impossible_settings(roots, settings, message):
    with pytest.raises(DataError, match=message):
        check(roots['RegDB'], **settings)


# People


def listed(identity, modality, split='train'):
    path = f'{identity}/{modality}.jpg'
    return ListedImage(path, identity, 1, modality, split, f'{split}.txt, line 1')


def pair(identity, split='train'):
    return [listed(identity, VISIBLE, split), listed(identity, INFRARED, split)]


@pytest.mark.parametrize(
    'rows, expected',
    [
        (pair(1) + pair(2) + pair(3, 'test'), []),
        (pair(1) + pair(2, 'val') + pair(3, 'test'), []),  # trained on together
        (
            pair(1) + pair(2) + pair(2, 'val') + pair(3, 'test'),
            [('warning', 'identity in two splits', 'val.txt')],
        ),
        (pair(1) + pair(2) + pair(2, 'test'), [('error', 'identity in two splits', 'test.txt')]),
        (
            pair(1) + [listed(2, VISIBLE)] + pair(3, 'test'),
            [('warning', 'one modality', 'train.txt'), ('error', 'too few people', 'train.txt')],
        ),
    ],
)
def test_who_stands_where(rows, expected):
    assert [(one.severity, one.kind, one.path) for one in check_people(rows)] == expected


# One image


@pytest.fixture
def jpeg(tmp_path):
    small.draw(1, VISIBLE, 1, 0).save(tmp_path / 'image.jpg')
    return tmp_path / 'image.jpg'


def test_facts_of_a_good_image(jpeg):
    facts = check_image(jpeg, quick=False)
    assert facts[:6] == ('', '', 'JPEG', 'RGB', 32, 64)
    assert len(facts.digest) == 16
    assert check_image(jpeg, quick=True) == facts._replace(digest=b'')


@pytest.mark.parametrize('quick', [True, False])
@pytest.mark.parametrize(
    'write, fault, what',
    [
        (lambda file: Image.new('1', (20_000,) * 2).save(file, 'PNG'), 'huge image', 'more than'),
        (lambda file: Image.new('1', (6000,) * 2).save(file, 'PNG'), 'huge image', '6000 x 6000'),
        (lambda file: file.write_bytes(b'%!PS-Adobe-3.0'), 'unreadable image', 'no JPEG, PNG or'),
        (lambda file: file.unlink(), 'unreadable image', 'No such file or directory'),
        (lambda file: os.truncate(file, 0), 'empty image', '0 bytes'),
        (lambda file: os.truncate(file, 4 * MAX_PIXELS + 1), 'huge image', '100,000,001 bytes'),
    ],
)
def test_files_that_may_hold_anything(jpeg, write, fault, what, quick):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        write(jpeg)
        facts = check_image(jpeg, quick)
    assert facts.fault == fault
    assert what in facts.what


def test_half_of_a_jpeg_is_found_by_the_full_form(jpeg):
    data = jpeg.read_bytes()
    for place in np.linspace(1, len(data) - 1, 40).astype(int):
        jpeg.write_bytes(data[:place])
        assert check_image(jpeg, quick=False).fault in ('truncated image', 'unreadable image')


# Reports


def make_report(*findings):
    return Report(Path('somewhere/private'), 'LLCM', None, True, 1200, 30, findings)


def test_what_a_terminal_would_obey_is_escaped():
    one = finding('odd name', 'cam1/\x1b[31m\udcff.jpg', 'ä b\n')
    assert one.path == r'cam1/\x1b[31m\udcff.jpg'
    assert one.what == r'ä b\n'
    assert printable('ä b') == 'ä b'


def test_kinds_have_known_severities():
    assert {severity for severity, _ in KINDS.values()} == set(SEVERITIES)
    assert finding('count', 'exp/x.txt', '5').severity == 'warning'
    assert finding('count', 'exp/x.txt', '5', 'note', 'none').cure == 'none'


def test_a_report_shows_some_and_counts_all():
    missing = [finding('missing image', f'vis/{n}.jpg', 'is not there') for n in range(40)]
    report = make_report(*missing, finding('format', 'vis/a.jpg', 'a PNG'))
    assert report.code == 1
    assert '... and 37 more' in report.text(most=3)
    assert '40 errors, 0 warnings, 1 note' in str(report)
    assert 'somewhere' not in json.dumps(report.to_dict())
    assert list(report.to_dict())[0] == 'root'
    assert len(report.frame()) == 41
    assert report.frame().columns.tolist() == ['severity', 'kind', 'path', 'what', 'cure']


def test_a_report_without_findings():
    report = make_report()
    assert report.code == 0
    assert len(report.frame().columns) == 5


# The command


command = partial(command_of, check_main)


def test_the_command_prints_and_writes_the_report(roots, clean, reports, tmp_path):
    file = tmp_path / 'report.json'
    code, out, err = command(roots['LLCM'], '--json', file, '--most', 1)
    assert (code, out) == (0, clean['LLCM'].text(1) + '\n')
    assert '16/16' in err  # the progress bar
    assert json.loads(file.read_text()) == clean['LLCM'].to_dict()

    _, out, _ = command(roots['RegDB'], '--quick', '--trial', 2)
    assert out == f'{check(roots["RegDB"], 2, True, progress=False)}\n'

    damaged = reports['RegDB', 'folder Thermal removed']
    code, out, _ = command(damaged.root, '--most', 2)
    assert (code, out) == (1, damaged.text(2) + '\n')


@pytest.mark.parametrize(
    'words, message',
    [
        (['{}'], 'Did you mean the folder llcm'),
        (['{}/regdb', '--trial', 11], 'trials 1 to 10'),
        (['{}/llcm', '--json', '{}/no/x.json'], 'make it first'),
        (['{}/llcm', '--fast'], '--fast'),
        ([], 'required'),
    ],
)
def test_the_command_refuses_in_a_sentence(roots, words, message):
    folder = roots['LLCM'].parent
    code, out, err = command(*(str(word).format(folder) for word in words))
    assert (code, out) == (2, '')
    assert message in err
    assert 'Traceback' not in err


def test_the_help_of_the_command_has_the_comments_of_the_module():
    program = 'import importlib; importlib.import_module("idkl_nb.check").check_main()'
    run = subprocess.run(
        [sys.executable, '-c', program, '--help'],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | dict(COLUMNS='110'),
    )
    assert 'read lists, names, sizes and image headers only' in run.stdout
