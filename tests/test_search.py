"Ranked lists, thresholds, kept features, sheets, and the command that joins them."

import base64
import csv
import dataclasses
import io
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import command as command_of
from PIL import Image

from idkl_nb import kept_features, known_embedder, pretrained, search
from idkl_nb.cards import STATEMENT, dataset_words
from idkl_nb.common import DataError
from idkl_nb.distances import Distances
from idkl_nb.feature_files import save_features
from idkl_nb.features import FeatureTable, embed
from idkl_nb.kept_features import KeptFeatures, kept_index, read_kept
from idkl_nb.ranked_lists import Hit, RankedQuery, Sheet
from idkl_nb.reading_images import read_image
from idkl_nb.records import Records
from idkl_nb.run_folder import load_run
from idkl_nb.runs import data, experiment
from idkl_nb.search import Found, Pairs, exact_search, index_search, pairs_of, recall, threshold
from idkl_nb.search_command import search_main
from idkl_nb.search_inputs import named_modality, validation_people
from idkl_nb.search_picture import png_picture
from idkl_nb.search_sheet import html_page
from idkl_nb.training import fit

root = Path(__file__).resolve().parents[1]


def table(features, identity=None, camera=None, modality=None, split='test'):
    N = len(features)
    columns = [
        np.zeros(N, np.int64) if x is None else np.asarray(x) for x in (identity, camera, modality)
    ]
    rows = zip((f'{n}.jpg' for n in range(N)), *columns, [split] * N)
    return FeatureTable(features, Records.from_rows('drawn', rows))


# the nearest


@pytest.mark.parametrize('cells', [1, 70, 10**6])
@pytest.mark.parametrize('top', [1, 7, 60])
def test_blocks_find_what_the_whole_table_has(cells, top, monkeypatch):
    monkeypatch.setattr(search, 'CELLS', cells)
    generator = torch.Generator().manual_seed(top)
    query, gallery = [torch.randn(n, 5, generator=generator) for n in (4, 50)]
    own = np.array([3, -1, 49, 0])
    d = Distances(query, gallery)[:].numpy()
    without = d.copy()
    without[[0, 2, 3], own[[0, 2, 3]]] = np.inf
    for own_rows, expected in ((None, d), (own, without)):
        found = exact_search(query, gallery, top, own_rows)
        order = expected.argsort(1)[:, :top]
        finite = np.isfinite(np.take_along_axis(expected, order, 1))
        assert (found.rows == np.where(finite, order, -1)).all()
        values = np.take_along_axis(expected, order, 1)
        assert np.allclose(found.distances, values, atol=1e-6)


def test_copies_of_an_image_stand_in_the_order_of_the_gallery():
    gallery = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    found = exact_search(torch.tensor([[1.0, 0.0]]), gallery, 3)
    assert found.rows.tolist() == [[1, 2, 3]] and found.distances.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize('kind', ['ivf', 'hnsw'])
def test_an_index_is_kept_until_the_features_change(kind, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1700, 8, generator=generator)
    file = tmp_path / 'kept [1]' / 'a [b].npz'
    few = dict(nprobe=1, ef=4)
    kept_index(table(x), file, kind, **few)
    (made,) = file.parent.glob('*.faiss')
    before = made.stat().st_mtime_ns
    exact = exact_search(x[:50], x, 10)
    shares = []
    for options in (few, dict(nprobe=1000, ef=2000)):  # 41 cells
        index = kept_index(table(x), file, kind, **options)
        shares.append(recall(index_search(index, x[:50], 10), exact))
    assert shares[0] < shares[1] and shares[1] > 0.999
    assert (index.nprobe == 41) if kind == 'ivf' else (index.hnsw.efSearch == 2000)
    assert made.stat().st_mtime_ns == before

    y = x.flip(0).contiguous()
    index = kept_index(table(y), file, kind)
    assert index_search(index, y[:1], 1).rows.tolist() == [[0]]
    (new,) = file.parent.glob('*.faiss')
    assert new != made


def test_recall_by_hand():
    exact = Found(np.array([[1, 2], [3, -1]]), np.zeros((2, 2)))
    assert recall(Found(np.array([[2, 9], [3, -1]]), np.zeros((2, 2))), exact) == 2 / 3


# thresholds


def test_pairs_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    N = 24
    known = table(
        torch.randn(N, 4, generator=generator), np.arange(N) % 4, np.arange(N) % 3, np.arange(N) % 2
    )
    d = Distances(known.features, known.features)[:].numpy()
    r = known.records
    for sides, first, second in ((('infrared', 'visible'), 1, 0), (('visible',) * 2, 0, 0)):
        same, different = [], []
        for i in range(N):
            for j in range(N):
                if (r.modality[i], r.modality[j]) != (first, second):
                    continue
                one = r.identity[i] == r.identity[j]
                if first == second and (j <= i or (one and r.camera[i] == r.camera[j])):
                    continue
                (same if one else different).append(d[i, j])
        if not same:
            with pytest.raises(DataError, match='0 pairs of one person'):
                pairs_of(known, sides)
            continue
        pairs = pairs_of(known, sides)
        assert np.allclose(np.sort(pairs.same), np.sort(same), atol=1e-6)
        assert np.allclose(np.sort(pairs.different), np.sort(different), atol=1e-6)


@pytest.mark.parametrize('share', [0.01, 0.5, 0.95, 1.0])
def test_a_threshold_is_the_least_that_keeps_its_promise(share):
    random = np.random.default_rng(0)
    pairs = Pairs(random.random(177), random.random(500) + 0.3, 9, ('visible', 'infrared'))
    limit = threshold(pairs, share)
    assert limit.same == np.mean(pairs.same <= limit.distance) >= share
    assert np.mean(pairs.same <= limit.distance - 0.001) < share
    assert limit.different == np.mean(pairs.different <= limit.distance)
    assert f'At distance {limit.distance:.3f}, of the validation pairs' in str(limit)


def test_what_is_to_be_expected_of_a_larger_gallery():
    pairs = Pairs(np.array([0.1, 0.2]), np.array([0.15, 0.4, 0.5, 0.6]), 3, ('visible',) * 2)
    assert 'about 2,500 of 10,000 gallery images' in threshold(pairs, 1.0).expected(10_000)
    assert 'That none is below it says little' in threshold(pairs, 0.5).expected(10_000)


def test_words_of_a_share_hide_nothing():
    shares = (0.0, 0.0001, 0.012, 0.9999, 1.0)
    words = ('0.0 %', 'less than 0.1 %', '1.2 %', 'more than 99.9 %', '100.0 %')
    assert tuple(map(search.percent, shares)) == words


# kept features


class Counting:
    "The mean colour of images; counts what it is asked"

    def __init__(self):
        self.words = dict(weights='1', size='8 x 4', flip='off', precision='no')
        self.asked = []

    def __call__(self, records):
        colours = [
            read_image(records.root / p).resize((1, 1)).getpixel((0, 0)) for p in records.path
        ]
        self.asked += records.path.tolist()
        return FeatureTable(torch.tensor(colours).float(), records)


@pytest.fixture
def gallery(tmp_path):
    "Six images, a network that counts, and what was said"
    names = [f'ö {n}.png' for n in range(6)]
    for n, name in enumerate(names):
        Image.new('RGB', (4, 8), (40 * n, 0, 0)).save(tmp_path / name)
    said = []
    network = Counting()
    kept = KeptFeatures(network, tmp_path / 'kept' / 'f.npz', said.append)
    records = Records.from_rows(tmp_path, [(name, 0, 0, 0, 'test') for name in names])
    return SimpleNamespace(folder=tmp_path, kept=kept, network=network, said=said, records=records)


def red(found):
    return found.features[:, 0].tolist()


def test_only_what_changed_is_embedded_again(gallery):
    kept, network, records = gallery.kept, gallery.network, gallery.records
    assert red(kept.of(records)) == [0, 40, 80, 120, 160, 200] and not gallery.said
    network.asked.clear()
    assert red(kept.of(records[np.array([5, 0, 3])])) == [200, 0, 120] and not network.asked

    Image.new('RGB', (4, 8), (7, 0, 0)).save(gallery.folder / 'ö 2.png')
    os.utime(gallery.folder / 'ö 4.png', ns=(1, 1))
    assert red(kept.of(records[1:])) == [40, 7, 120, 160, 200]
    assert network.asked == ['ö 2.png', 'ö 4.png']
    assert re.search(
        '3 images were kept, 2 images are new or changed, 1 are gone', gallery.said[-1]
    )


@pytest.mark.parametrize('word', ['weights', 'size', 'flip', 'precision'])
def test_another_network_uses_nothing_of_it(gallery, word):
    gallery.kept.of(gallery.records)
    gallery.network.words |= {word: 'other'}
    gallery.network.asked.clear()
    gallery.kept.of(gallery.records)
    assert len(gallery.network.asked) == 6
    assert gallery.said == [
        f'images: {word} changed since the features were kept; all images are embedded anew'
    ]


def test_a_damaged_file_of_features_is_made_anew(gallery):
    gallery.kept.of(gallery.records)
    gallery.kept.file.write_bytes(gallery.kept.file.read_bytes()[:300])
    assert len(gallery.kept.of(gallery.records)) == 6
    assert 'are damaged; all images are embedded anew' in gallery.said[0]
    assert len(read_kept(gallery.kept.file, gallery.network.words)[1]) == 6


def test_what_was_done_before_a_stop_is_kept(gallery, monkeypatch):
    monkeypatch.setattr(known_embedder, 'CHUNK', 2)
    network = gallery.network

    def stops(records):
        if len(network.asked) == 4:
            raise KeyboardInterrupt
        return Counting.__call__(network, records)

    gallery.kept.embedder = stops
    stops.words = network.words
    with pytest.raises(KeyboardInterrupt):
        gallery.kept.of(gallery.records)
    gallery.kept.embedder = network
    assert red(gallery.kept.of(gallery.records)) == [0, 40, 80, 120, 160, 200]
    assert sorted(network.asked) == gallery.records.path.tolist()  # each once


def test_images_that_cannot_be_read_are_left_out_and_named(gallery, monkeypatch):
    monkeypatch.setattr(known_embedder, 'CHUNK', 2)
    for n in (0, 1, 4):
        (gallery.folder / f'ö {n}.png').write_bytes(b'none')
    assert red(gallery.kept.of(gallery.records)) == [80, 120, 200]
    assert re.search(
        r"3 of 6 images can't be read and are left out, such as .*ö 0.png", gallery.said[0]
    )
    with pytest.raises(DataError, match='ö 0.png: this image is missing or damaged'):
        gallery.kept.of(gallery.records[:2])


def test_a_folder_that_cannot_be_written_stops_no_search(gallery):
    (gallery.folder / 'kept').write_text('a file in its place')
    assert len(gallery.kept.of(gallery.records)) == 6
    assert "can't be kept" in gallery.said[0]


# sheets


def sheet_of(folder, name='a.png', queries=1, **options):
    Image.new('RGB', (30, 90), 'red').save(folder / 'a.png')
    hits = [Hit(name, folder / 'a.png', 0.25, True), Hit(name, None, 1.5, False)]
    asked = [RankedQuery(name, folder / 'a.png', hits)] * queries
    return Sheet(asked, dict(threshold=f'of {name}'), **options)


@pytest.mark.parametrize(
    'name', ['"><script>alert(1)</script>', "' onerror='x", 'x\udcff', '$a_{$']
)
def test_a_name_is_only_a_name(name, tmp_path):
    sheet = sheet_of(tmp_path, name)
    page = html_page(sheet).decode()
    assert '<script' not in page and "' onerror='" not in page
    assert page.count('<img ') == 2 and page.count(' alt="') == 2 and 'aria-label="no pict' in page
    addresses = re.findall(r'(?:src|href|url)\W+(\w+):', page)
    assert set(addresses) == {'data'} and 'http:' not in page
    assert Image.open(io.BytesIO(png_picture(sheet))).width > 500


def test_the_first_queries_are_shown_and_the_rest_is_told(tmp_path):
    sheet = sheet_of(tmp_path, queries=5, shown=2)
    page = html_page(sheet).decode()
    assert page.count('<section>') == 2 and 'the first 2 of 5 queries; the table has all' in page
    two = Image.open(io.BytesIO(png_picture(sheet))).height
    one = Image.open(io.BytesIO(png_picture(dataclasses.replace(sheet, shown=1)))).height
    assert two - one == 292


def test_nothing_but_pixels_of_a_picture_goes_into_the_page(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = 'a camera of somebody'
    Image.new('RGB', (900, 2000), 'red').save(tmp_path / 'a.jpg', exif=exif, comment=b'a camera')
    hits = [Hit('a.jpg', tmp_path / 'a.jpg', 0.5, None)]
    page = html_page(Sheet([RankedQuery('a.jpg', None, hits)], {})).decode()
    (content,) = re.findall('base64,([^"]+)', page)
    content = base64.b64decode(content)
    assert b'a camera' not in content
    assert Image.open(io.BytesIO(content)).size == (130, 288)


def test_the_statement_is_that_of_the_project():
    assert STATEMENT in (root / 'README.md').read_text(encoding='utf-8')


# modality


@pytest.mark.parametrize(
    'folder, paths, expected',
    [
        ('x', ['a.png'], None),
        ('NIR images', ['a.png'], 'infrared'),
        ('rgb', ['a/b.png', 'c.png'], 'visible'),
        ('rgb', ['thermal_2/b.png'], 'infrared'),
        ('rgb', ['thermal/b.png', 'c.png'], None),
        ('birds', ['a.png'], None),
        ('x', ['rgb.png'], None),
    ],
)
def test_the_spectrum_is_found_from_the_folders(folder, paths, expected):
    assert named_modality(Path(folder), paths) == expected


# the command


command = partial(command_of, search_main)


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    "A run with validation people, one whose people were trained on, photographs, noise"
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp('a search')
    chosen = experiment('smoke')
    config = dataclasses.replace(chosen.config, epochs=1, batches=1, P=2)
    chosen = dataclasses.replace(chosen, people=(5, 2, 2), config=config)
    records = data(chosen, folder / 'run')
    words = dataset_words(records)
    fit(
        config,
        records.where(split='train'),
        folder / 'run' / 'model',
        progress=False,
        dataset=words,
    )

    # patches of photographs, and the same in grey
    rgb, nir = folder / 'rgb ü', folder / 'one' / 'nir'
    for place in (rgb / 'deep', nir):
        place.mkdir(parents=True)
    n = 0
    for photograph in load_sample_images().images:
        for left in range(0, 500, 100):
            patch = Image.fromarray(photograph[100:300, left : left + 100])
            patch.save(rgb / ('deep' if n % 2 else '.') / f'{n}.jpg')
            if n < 3:
                patch.convert('L').save(nir / f'{n}.png')
            n += 1
    return SimpleNamespace(folder=folder, run=folder / 'run', rgb=rgb, nir=nir, records=records)


def searched(bench, *words, out='s.html'):
    return command('--run', bench.run, '--out', bench.folder / out, *words)


def rows_of(bench, out='s.csv'):
    with open(bench.folder / out, encoding='utf-8', newline='') as opened:
        return list(csv.DictReader(opened))


def test_a_search_ranks_as_features_by_hand(bench):
    done = searched(bench, '--query', bench.nir, '--gallery', bench.rgb, '--top', 4)
    assert done.code == 0, done.err
    assert 'nir: 3 images, infrared' in done.out and 'rgb ü: 10 images, visible' in done.out
    assert re.search(
        r'threshold: At distance \d\.\d+, of the validation pairs .* of 2 people', done.out
    )

    # by hand
    network, config = load_run(bench.run / 'model')
    sides = []
    for place in (bench.nir, bench.rgb):
        paths = sorted(p.relative_to(place).as_posix() for p in place.rglob('*.*'))
        records = Records.from_rows(place, [(path, 0, 0, 0, 'test') for path in paths])
        sides.append(
            embed(network.embedder(), records, config.height, config.width, progress=False)
        )
    d = Distances(*[side.features for side in sides])[:].numpy()
    rows = rows_of(bench)
    assert len(rows) == 12 and [row['rank'] for row in rows[:4]] == ['1', '2', '3', '4']
    for q in range(3):
        names = [Path(row['gallery']).name for row in rows[4 * q : 4 * q + 4]]
        order = d[q].argsort()[:4]
        assert names == [Path(sides[1].records.path[g]).name for g in order]
        given = [float(row['distance']) for row in rows[4 * q : 4 * q + 4]]
        assert np.allclose(given, d[q][order], atol=2e-6)
    limit = float(re.search(r'At distance (\d\.\d+)', done.out)[1])
    assert all(
        (row['below_threshold'] == 'yes') == (float(row['distance']) <= limit) for row in rows
    )

    page = (bench.folder / 's.html').read_text(encoding='utf-8')
    assert STATEMENT in page and page.count('<img ') == 15
    assert Image.open(bench.folder / 's.png').format == 'PNG'


def test_the_second_search_reads_what_was_kept(bench, monkeypatch):
    words = ('--query', bench.rgb / '0.jpg', '--gallery', bench.rgb, '--top', 50)
    assert searched(bench, *words).code == 0
    done = searched(bench, *words)
    assert 'features of 10 images were kept, 0 images are new or changed' in done.out
    assert 'queries that lie in the gallery: 1, not in their lists' in done.out
    rows = rows_of(bench)
    assert len(rows) == 9 and str(bench.rgb / '0.jpg') not in {row['gallery'] for row in rows}
    assert {row['query'] for row in rows} == {str(bench.rgb / '0.jpg')}

    assert 'were kept' not in searched(bench, *words, '--no-keep').out
    again = rows_of(bench)
    assert again == rows

    done = searched(bench, *words, '--flip')
    assert 'flip changed since the features were kept; all images are embedded anew' in done.out


def test_faiss_says_what_it_found(bench):
    words = ('--query', bench.nir, '--gallery', bench.rgb, '--index', 'hnsw')
    done = searched(bench, *words)
    assert done.code == 0, done.err
    assert 'by FAISS, hnsw; of the exact first 10 of 3 queries it found 100.0 %' in done.out
    assert len(rows_of(bench)) == 30


def test_features_as_a_gallery(bench, tmp_path):
    network, config = load_run(bench.run / 'model')
    records = bench.records.where(split='test', modality=0)
    features = embed(network.embedder(), records, config.height, config.width, progress=False)
    save_features(features, tmp_path / 'g.npz')
    words = ('--query', bench.nir, '--gallery', tmp_path / 'g.npz', '--top', 3)
    assert searched(bench, *words).code == 0
    page = (bench.folder / 's.html').read_text(encoding='utf-8')
    assert page.count('<img ') == 3 and page.count('>no picture<') == 9
    assert searched(bench, *words, '--gallery-root', bench.run / 'data').code == 0
    assert (bench.folder / 's.html').read_text(encoding='utf-8').count('<img ') == 12

    # people for a threshold, and a network that is another
    known = embed(
        network.embedder(),
        bench.records.where(split='test'),
        config.height,
        config.width,
        progress=False,
    )
    save_features(known, tmp_path / 'k.npz')
    done = searched(bench, *words, '--validation', tmp_path / 'k.npz')
    assert 'pairs of 2 people' in done.out
    save_features(FeatureTable(features.features, records, dict(weights='0')), tmp_path / 'g.npz')
    done = searched(bench, *words)
    assert done.code == 2 and re.search(r'\(weights 0 in the file, \w{16} here\)', done.err)
    save_features(FeatureTable(torch.rand(len(records), 4), records, {}), tmp_path / 'g.npz')
    assert re.search(r'\(length 4 in the file, \d+ here\)', searched(bench, *words).err)


def test_features_with_and_without_mirror_image_are_not_compared(bench, tmp_path):
    records = bench.records.where(split='test', modality=0)
    features = embed(pretrained.load(bench.run / 'model'), records, progress=False)
    save_features(features, tmp_path / 'g.npz')
    words = ('--query', bench.nir, '--gallery', tmp_path / 'g.npz')
    assert searched(bench, *words).code == 0
    done = searched(bench, *words, '--flip')
    assert done.code == 2 and '(flip off in the file, on here)' in done.err
    words = ('--query', bench.nir, '--gallery', bench.rgb, '--validation', tmp_path / 'g.npz')
    done = searched(bench, *words, '--flip')
    assert done.code == 2 and '(flip off in the file, on here)' in done.err


def test_a_network_of_the_package_searches(bench, tmp_path):
    words = words_of(bench, 'IDKL', tmp_path / 's.html')
    done = command(*words)
    assert done.code == 0 and len(rows_of(SimpleNamespace(folder=tmp_path))) == 30, done.err
    done = command(*words, '--validation', bench.run / 'data')  # people 1 to 210 of world 7
    assert done.code in (0, 2)


def words_of(bench, run, out):
    "A search by another run than the bench's own"
    return '--run', run, '--query', bench.nir, '--gallery', bench.rgb, '--out', out


def test_a_run_without_validation_people_says_so(bench, tmp_path):
    run = shutil.copytree(bench.run / 'model', tmp_path / 'run')
    words = words_of(bench, run, tmp_path / 's.html')
    done = command(*words)
    assert done.code == 0 and 'threshold: none: the run has no validation set' in done.out
    assert {row['below_threshold'] for row in rows_of(SimpleNamespace(folder=tmp_path))} == {''}
    done = command(*words, '--threshold', 0.4)
    assert 'threshold: 0.4; what it means is not known' in done.out
    done = command(*words, '--validation', bench.run / 'data', '--threshold', 0.4)
    assert 'At distance 0.400, of the validation pairs' in done.out


def test_people_whom_the_run_has_seen_set_no_threshold(bench, tmp_path):
    run = shutil.copytree(bench.run / 'model', tmp_path / 'run')
    about = json.loads((run / 'config.json').read_text())
    words = words_of(bench, run, tmp_path / 's.html')
    val = sorted(set(bench.records.where(split='val').identity.tolist()))
    for dataset, seen in ((about['dataset'], val), (None, val)):
        about |= dict(dataset=dataset, identities=seen + about['identities'][len(seen) :])
        (run / 'config.json').write_text(json.dumps(about))
        with pytest.raises(DataError, match='but the network was trained on them'):
            validation_people(run, bench.run / 'data', pretrained.load(run).trained_on)

    # a file of features of people who were trained on
    about |= dict(dataset=dict(dataset_words(bench.records)))
    (run / 'config.json').write_text(json.dumps(about))
    people = bench.records.where(split='val')
    told = {'dataset' if k == 'name' else k: v for k, v in about['dataset'].items()}
    save_features(FeatureTable(torch.rand(len(people), 4), people, told), tmp_path / 'v.npz')
    done = command(*words, '--validation', tmp_path / 'v.npz')
    assert done.code == 2 and '2 of 2 test identities were trained on' in done.err


@pytest.mark.parametrize(
    'words, pattern',
    [
        ('--top 0', '--top 0: expected at least 1'),
        ('--same 95', '--same 95.0: expected a share'),
        ('--threshold 3', 'from 0 to 2'),
        ('--out {0}/x.png', 'ends in .html'),
        ('--out {0}/no/x.html', 'no such folder; make it first'),
        ('--gallery {0}/none', 'none: no such folder'),
        ('--gallery {0}/none.npz', 'none.npz: no such file'),
        ('--gallery-root {0}', 'leave it out'),
        ('--query {0}/run/data/exp/val_id.txt', 'not an image'),
        ('--run {0}', 'does not hold a run'),
        ('--validation {0}/one', '--validation .*neither cam1'),
        ('--device gpu', '--device gpu'),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(bench, words, pattern):
    before = sorted(bench.folder.iterdir())
    usual = ('--query', bench.nir, '--gallery', bench.rgb)
    given = [word.format(bench.folder) for word in words.split(' ', 1)]
    done = searched(bench, *usual, *given, out='refused.html')
    assert done.code == 2 and re.search(pattern, done.err), done.err
    assert done.err.splitlines()[-1].startswith('idkl-search: ')
    assert 'Traceback' not in done.err
    assert sorted(bench.folder.iterdir()) == before


def test_help_has_the_statement_and_a_line_an_option(monkeypatch):
    monkeypatch.setenv('COLUMNS', '100')
    done = command('--help')
    assert done.code == 0 and ' '.join(STATEMENT.split()[:6]) in ' '.join(done.out.split())
    for name in ('run', 'query', 'gallery', 'top', 'out', 'index', 'threshold', 'validation'):
        assert f'--{name}' in done.out
