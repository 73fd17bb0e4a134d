"Tables of one's own pictures, from a folder to a score, and all that can be wrong with them."

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from commands import TINY, command
from PIL import Image
from test_commands import refused

from idkl_nb.check import check_main
from idkl_nb.check_folders import dataset_folder
from idkl_nb.common import DataError
from idkl_nb.embed_command import embed_main
from idkl_nb.evaluate import evaluate_main
from idkl_nb.features import FeatureTable
from idkl_nb.layouts import SPECTRA, modality_of
from idkl_nb.make_table import make_table, make_table_main
from idkl_nb.protocols import LLCM
from idkl_nb.readers import read_dataset
from idkl_nb.run_folder import RunDescription
from idkl_nb.scoring import Plain
from idkl_nb.tables import is_table, read_table
from idkl_nb.train_command import train_main

PATTERN = '{modality}/{identity}/{camera}_{}'
HEADER = 'path,identity,camera,modality,split'


def draw(folder, people=8, images=2):
    "Pictures in noise: visible/<person>/<camera>_<n>.png, and the same in infrared"
    rng = np.random.default_rng(0)
    for modality in ('visible', 'infrared'):
        for person in range(1, people + 1):
            for n in range(images):
                file = folder / modality / f'{person:03d}' / f'{1 + n % 2}_{n}.png'
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 255, (32, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
    return folder


@pytest.fixture(scope='module')
def own(tmp_path_factory):
    "A folder with a space and an umlaut in its name, and its table"
    folder = draw(tmp_path_factory.mktemp('own') / 'Bilder für uns')
    make_table(folder, PATTERN)
    return folder / 'table.csv'


def test_a_table_is_read_as_it_was_written(own, tmp_path):
    records = read_dataset(own)
    assert records.dataset == 'table Bilder für uns' and records[:3].dataset == records.dataset
    frame = pd.read_csv(own)
    assert frame.path.tolist() == records.path.tolist() and len(records) == 32
    assert [f'{n:03d}' for n in records.identity] == [path.split('/')[1] for path in records.path]
    assert records.camera.tolist() == [int(path.split('/')[2][0]) for path in records.path]
    assert len(set(records.where(split='test').identity)) == 4
    other = make_table(own.parent, PATTERN, own.with_name('b.csv'), seed=1)
    assert set(other.where(split='test').identity) != set(records.where(split='test').identity)

    pytest.importorskip('pyarrow')
    parquet = make_table(own.parent, PATTERN, own.with_name('t.parquet'))
    assert all((getattr(parquet, name) == getattr(records, name)).all() for name in frame.columns)


def test_a_table_may_lie_above_its_images(tmp_path):
    folder = draw(tmp_path / 'a' / 'b', people=2)
    records = make_table(folder, PATTERN, tmp_path / 'all.csv', test=1)
    assert records.path[0] == 'a/b/infrared/001/1_0.png' and set(records.split) == {'test'}
    with pytest.raises(ValueError, match='must lie in'):
        make_table(folder, PATTERN, tmp_path / 'a' / 'b' / 'visible' / 'all.csv')


GOOD = 'visible/001/1_0.png,1,1,visible,train'
BAD = {
    'visible/001/1_0.png,1,1,sepia,train': "modality 'sepia'; expected 0 and 1, or",
    'visible/001/1_0.png,1,1,visible,query': "split 'query'.*query and gallery are both test",
    'visible/001/1_0.png,eve,1,visible,train': "identity 'eve'; expected a whole number",
    'visible/001/1_0.png,1,,visible,train': "camera ''; expected a whole number",
    'visible/001/1_0.png,1,1,visible,train,more': '6 columns; the header has 5',
    'visible/001/1_0.png,1,1': '3 columns; the header has 5',
    '../own/1.png,1,1,visible,train': "path '../own/1.png'",
    '/etc/1.png,1,1,visible,train': "path '/etc/1.png'",
    'visible/001/1.tiff,1,1,visible,train': "path 'visible/001/1.tiff'; expected an image",
    'visible/001/none.png,1,1,visible,train': 'listed in bad.csv, line 3, but is not there',
    GOOD: 'stands in bad.csv, line 2, too',
    'infrared/001/1_0.png,1,2,nir,test': r'identity 1 is in train \(line 2\) and test \(line 3\)',
}


@pytest.mark.parametrize('line', BAD)
def test_a_bad_line_is_named(own, line):
    "By the reader with one sentence, by the check as a finding, by a training before it begins"
    file = own.with_name('bad.csv')
    file.write_text(f'\ufeff{HEADER}\r\n{GOOD}\r\n{line}\r\n\r\n', encoding='utf-8')
    with pytest.raises(DataError, match=BAD[line]) as error:
        read_table(file)
    assert 'line 3' in str(error.value)

    found = command(check_main, file, '--quick')
    assert found.code == 1 and 'bad.csv' in found.out and '3' in found.out
    refused(command(train_main, '--root', file, *TINY, '--out', file.parent / 'no'), 'line 3')
    assert not (file.parent / 'no').exists()


HEADERS = {
    'path,identity,camera,split': 'line 1: no column modality; found path, identity, camera, split',
    HEADER.replace(',', ';'): 'no column path.*columns are parted by commas',
    f'{HEADER},path': 'two columns are called path',
    '': 'no image is listed',
}


@pytest.mark.parametrize('header', HEADERS)
def test_a_bad_header_is_named(own, header):
    file = own.with_name('header.csv')
    file.write_text(f'{header}\n{GOOD},x\n' if header else '\n')
    with pytest.raises(DataError, match=f'header.csv.*{HEADERS[header]}.*Expected a table'):
        read_table(file)
    assert command(check_main, file).code == 1


def test_no_table_at_all(own, tmp_path, monkeypatch):
    missing = tmp_path / 'none.csv'
    refused(command(check_main, missing), 'none.csv: no such file. Expected a table')
    refused(command(train_main, '--root', missing, *TINY), 'none.csv: no such file')
    missing.write_bytes(b'\xff\xfe\x00,')
    with pytest.raises(DataError, match='unreadable'):
        read_table(missing)
    assert not is_table(tmp_path) and not is_table(None) and is_table('A.CSV')
    with pytest.raises(DataError):
        dataset_folder(tmp_path)

    missing.write_text(f'{HEADER}\na\0/b.png,1,1,0,test\n')
    assert 'missing image (1)' in command(check_main, missing).out

    own.with_name('x.parquet').write_bytes(b'PAR1')
    monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    for main in (check_main, lambda words: train_main(['--root', *words])):
        refused(command(main, own.with_name('x.parquet')), r"pip install 'idkl_nb\[tables\]'")
    out = tmp_path / 'out.parquet'
    refused(command(make_table_main, own.parent, '--pattern', PATTERN, '--out', out), 'pyarrow|lie')


def test_dates_that_python_does_not_have(tmp_path):
    "Parquet holds years that Python does not"
    pyarrow = pytest.importorskip('pyarrow')
    from pyarrow.parquet import write_table

    late = pyarrow.array([2**62], pyarrow.int64()).view(pyarrow.timestamp('us'))
    columns = dict.fromkeys(HEADER.split(','), pyarrow.array(['x'])) | dict(split=late)
    write_table(pyarrow.table(columns), tmp_path / 'x.parquet')
    with pytest.raises(DataError, match='x.parquet: unreadable'):
        read_table(tmp_path / 'x.parquet')


def test_one_modality_is_a_finding_with_its_line(own):
    file = own.with_name('one.csv')
    lines = own.read_text().splitlines()
    left_out = ('infrared/003', 'visible/004/1_0')
    file.write_text('\n'.join(line for line in lines if not line.startswith(left_out)))
    found = command(check_main, file, '--quick')
    assert found.code == 0
    assert 'identity 3 has visible images only (line ' in found.out
    assert 'visible/004: images here: 1, such as 1_0.png' in found.out


def test_patterns_and_words(tmp_path):
    folder = draw(tmp_path / 'p', people=3)
    (folder / 'infrared').rename(folder / 'TI')
    done = command(make_table_main, folder, '--pattern', PATTERN)
    refused(done, "modality 'TI' occurs.*--words 'TI=infrared'")
    assert not (folder / 'table.csv').exists()
    done = command(make_table_main, folder, '--pattern', PATTERN, '--words', 'TI=warm')
    refused(done, 'the meanings are visible')
    refused(command(make_table_main, folder, '--pattern', '{identity}'), 'expected {identity} and')
    refused(
        command(make_table_main, folder, '--pattern', 'x{modality}/{identity}'), 'none of its 12'
    )
    refused(
        command(make_table_main, folder, '--pattern', PATTERN, '--words', 'TI=skip', '--test', 2),
        'share from 0 to 1',
    )
    done = command(make_table_main, folder, '--pattern', PATTERN, '--words', 'TI=infrared')
    assert done.code == 0 and 'were drawn with seed 0' in done.out
    refused(command(make_table_main, folder, '--pattern', PATTERN), 'already')


def test_words_for_modalities():
    assert [modality_of(word) for words in SPECTRA.values() for word in words].count(0) == 5
    assert modality_of(' NIR ') == 1 and modality_of('2') is None


def test_from_folder_to_score(own, tmp_path):
    "Check, training, features and score of a table, as somebody would who has nothing else"
    assert command(check_main, own).code == 0
    run = tmp_path / 'run'
    done = command(train_main, '--root', own, '--out', run, *TINY)
    assert done.code == 0, done.err
    assert 'Plain' in done.out and (run / 'scores.json').is_file()
    about = RunDescription.read(run / 'model').dataset
    assert about == dict(name='table Bilder für uns')
    card = (run / 'model' / 'card.md').read_text(encoding='utf-8')
    assert 'no published dataset' in card

    file = tmp_path / 'f.npz'
    assert command(embed_main, '--images', own, '--run', run, '--out', file).code == 0
    plain = ('--features', file, '--protocol', 'plain')
    done = command(evaluate_main, *plain, '--root', own)
    assert done.code == 0 and 'gallery of 8' in done.out, done.err
    done = command(evaluate_main, *plain, '--gallery', 'draw', '--seeds', 3, '--camera-rule', 'off')
    assert '3 trials, 8 of 8 queries valid, gallery of 8' in done.out, done.err
    refused(command(evaluate_main, *plain, '--seeds', 3), 'name --gallery draw')
    llcm = ('--features', file, '--protocol', 'llcm')
    refused(command(evaluate_main, *llcm, '--gallery', 'all'), 'a choice of plain')

    # the same folder under another split: people whom the run has seen
    other = make_table(own.parent, PATTERN, own.with_name('other.csv'), test=1).where(split='test')
    assert len(other) == 32
    done = command(embed_main, '--images', own.with_name('other.csv'), '--run', run, '--out', file)
    refused(done, '4 of 8 test identities were trained on')

    nobody = make_table(own.parent, PATTERN, own.with_name('train.csv'), test=0)
    assert set(nobody.split) == {'train'}
    done = command(train_main, '--root', own.with_name('train.csv'), '--out', tmp_path / 'r', *TINY)
    refused(done, 'no image to test on')


@pytest.mark.parametrize('gallery', ['all', 'draw'])
@pytest.mark.parametrize('camera_rule', [True, False])
def test_plain_is_llcm_with_other_defaults(own, gallery, camera_rule):
    records = read_table(own).where(split='test')
    features = np.random.default_rng(1).normal(size=(len(records), 4))
    table = FeatureTable(torch.as_tensor(features), records)
    sides = []
    for modality in (1, 0):
        side = table.where(modality=modality)
        sides += [side.features, side.records]
    choices = dict(gallery=gallery, camera_rule=camera_rule, unique_ids=True)
    ours = Plain(**choices).evaluate(*sides).trials
    assert ours.equals(LLCM(**choices).evaluate(*sides).trials)
    few = Plain(**choices, seeds=2).evaluate(*sides).trials
    assert few.equals(ours[: 2 if gallery == 'draw' else 1])
    with pytest.raises(ValueError, match='0 seeds'):
        Plain(seeds=0)
