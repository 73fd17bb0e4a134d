"Another dataset as a test; reports: what is drawn, what is said, what is refused before the work."

import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from commands import TINY, command

from idkl_nb import report_words
from idkl_nb.cards import model_card
from idkl_nb.embed_command import embed_main
from idkl_nb.evaluate import evaluate_main
from idkl_nb.feature_files import load_features, save_features
from idkl_nb.features import FeatureTable
from idkl_nb.metrics import rank_and_score
from idkl_nb.protocols import LLCM, SYSU, RegDB
from idkl_nb.readers import read_llcm, read_sysu
from idkl_nb.records import Records
from idkl_nb.report import png
from idkl_nb.report_figures import NAMES, all_shown, some_images, some_people
from idkl_nb.report_words import Evaluated, of_training, protocol_words
from idkl_nb.run_folder import load_run
from idkl_nb.scoring import score_features, trained_elsewhere
from idkl_nb.searched import chosen_queries, search
from idkl_nb.train_command import train_main
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu


class Page(HTMLParser):
    "Headings, pictures and text of a page"

    def __init__(self, file):
        super().__init__()
        self.text, self.pictures, self.links = [], [], []
        self.feed(file.read_text(encoding='utf-8'))
        self.words = ' '.join(' '.join(self.text).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ('href', 'src') if name in attributes]
        if tag == 'img':
            self.pictures.append(attributes)

    def handle_data(self, text):
        self.text.append(text)


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    "A small dataset of each layout, and a run on SYSU-MM01's with its report"
    folder = tmp_path_factory.mktemp('report ü')
    world = World(height=32, width=16)
    roots = dict(
        sysu=write_sysu(world, folder / 'sysu', [1, 2], [3], [4, 5, 6], images=8),
        regdb=write_regdb(world, folder / 'regdb', range(1, 7), images=4),
        llcm=write_llcm(world, folder / 'llcm', [1], [4, 5], images=9),
    )
    run = folder / 'run'
    patch = pytest.MonkeyPatch()
    patch.setattr('idkl_nb.report.DOTS', 48)  # a third of the usual: pictures take most of the time
    done = command(train_main, *TINY, '--root', roots['sysu'], '--out', run, '--figures')
    assert done.code == 0, done.err
    yield SimpleNamespace(folder=folder, run=run, done=done, **roots)
    patch.undo()


# train here, test there


@pytest.mark.parametrize('name', ['regdb', 'llcm'])
def test_a_network_is_tested_on_another_dataset(bench, name, tmp_path):
    "The same as embedding and scoring in two steps, and the scores say where it was trained"
    written = tmp_path / 'scores.json'
    words = ['--run', bench.run, '--root', getattr(bench, name), '--protocol', name]
    done = command(evaluate_main, *words, '--json', written)
    assert done.code == 0, done.err

    scores = json.loads(written.read_text())
    sentence = 'was trained on SYSU-MM01, another dataset than'
    assert scores['about']['network'].startswith(sentence) and sentence in done.out
    features = tmp_path / 'f.npz'
    embedded = ['--images', getattr(bench, name), '--run', bench.run, '--out', features]
    assert command(embed_main, *embedded).code == 0
    rules = RegDB() if name == 'regdb' else LLCM()
    by_hand = score_features(load_features(features), rules)
    assert scores['trials'] == by_hand.to_dict()['trials']
    assert by_hand.about['network'] == scores['about']['network']


def test_one_network_on_several_trials(bench, tmp_path):
    written = tmp_path / 's.json'
    words = ['--run', bench.run, '--root', bench.regdb, '--protocol', 'regdb', '--json', written]
    assert command(evaluate_main, *words, '--trial', 3, 1).code == 0
    assert json.loads(written.read_text())['about']['trials'] == [1, 3]


def test_its_own_dataset_is_not_another(bench, tmp_path):
    words = ['--run', bench.run, '--root', bench.sysu, '--protocol', 'sysu-all-single']
    done = command(evaluate_main, *words)
    assert done.code == 0 and 'another dataset' not in done.out
    own = json.loads((bench.run / 'scores.json').read_text())[0]
    assert f'{own["table"]["mean"]["mAP"]:.2f}' in done.out


def test_a_world_is_another_dataset_than_another_world():
    about = dict(dataset='synthetic', world='seed 7, coupling 0.5')
    records = Records.from_rows('x', [('cam1/1/1.jpg', 1, 1, 0, 'test')])
    here = json.dumps(dict(name='synthetic', world='seed 7, coupling 0.5', identities=[1]))
    there = here.replace('seed 7', 'seed 8')
    assert trained_elsewhere(about | dict(trained_on=here), records) == ''
    assert 'synthetic (seed 8, coupling 0.5)' in trained_elsewhere(
        about | dict(trained_on=there), records
    )
    assert trained_elsewhere(about, records) == ''


def test_a_card_says_where_a_network_was_trained(bench):
    table = load_features(bench.run / 'features.safetensors', bench.llcm)
    about = table.about | dict(dataset='LLCM')
    records = read_llcm(bench.llcm)
    test = records.where(split='test')
    table = FeatureTable(torch.randn(len(test), 4), test, about)
    scores = [score_features(table, LLCM())]
    card = model_card(load_run(bench.run / 'model')[1], records, scores, 'LLCM')
    assert 'The network was trained on SYSU-MM01, another dataset than LLCM' in card


@pytest.mark.parametrize(
    'words, message',
    [
        ('--run {run} --protocol llcm', '--run: name the folder of the dataset'),
        ('--run {run} --features x.npz --root {llcm} --protocol llcm', 'name one of the two'),
        ('--features x.npz --device cpu --protocol llcm', '--device is for --run'),
        ('--features x.npz --figures --protocol llcm', '--figures: name a file with --json'),
        ('--run {llcm} --root {llcm} --protocol llcm', 'does not hold a run'),
        ('--run {run} --root {llcm} --protocol regdb', 'images of LLCM, and --protocol regdb'),
        ('--run {run} --root {llcm} --protocol llcm --trial 2', '--trial is a choice of RegDB'),
        ('--run {run} --root {regdb} --protocol regdb --trial 2 2', 'name each trial once'),
        ('--run {run} --root {regdb} --protocol regdb --device gpu', '--device gpu'),
        ('--run {run} --root {sysu} --protocol sysu-all-single --query visible', 'asks from'),
    ],
)
def test_what_cannot_be_tested_is_refused_before_the_work(bench, words, message, monkeypatch):
    def embeds(*_, **__):
        raise AssertionError('embedded')

    monkeypatch.setattr('idkl_nb.run_features.embed', embeds)
    words = [word.format(**vars(bench)) for word in words.split()]
    done = command(evaluate_main, *words)
    assert done.code == 2 and message in done.err and done.err.count('\n') == 1, done.err


# which queries


def test_queries_are_chosen_by_their_scores():
    ap = np.array([0.2, 1.0, 0.9, np.nan, 0.5, 0.4, 0.1, 0.3])
    identity = np.array([1, 2, 2, 3, 3, 4, 5, 6])
    groups = chosen_queries(ap, identity, 2)
    assert {group: rows.tolist() for group, rows in groups.items()} == dict(
        best=[1, 4], typical=[5, 7], worst=[6, 0]
    )
    assert [len(rows) for rows in chosen_queries(ap[:1], identity[:1]).values()] == [1, 0, 0]


@pytest.mark.parametrize('rules', [SYSU(draws='seeded'), LLCM('euclidean'), LLCM(rerank='all')])
def test_the_first_gallery_is_that_of_the_protocol(bench, rules):
    "Against the plain definition of the scores, query by query"
    records = read_sysu(bench.sysu).where(split='test')
    draw = torch.Generator().manual_seed(0)
    features = (
        torch.randn(len(records), 8, generator=draw) + torch.as_tensor(records.identity)[:, None]
    )
    found = search(FeatureTable(features, records), rules)
    ids = [torch.as_tensor(side.identity) for side in (found.query, found.gallery)]
    for row in range(0, len(found.query), 5):
        one = slice(row, row + 1)
        ignore = torch.as_tensor(found.ignore[one])
        scores = rank_and_score(found.distances[one], ids[0][one], ids[1], ignore)
        assert scores.mAP == pytest.approx(found.ap[row])
    first = score_features(FeatureTable(features, records), rules).trials.iloc[0]
    assert 100 * found.scores.mAP == pytest.approx(first.mAP)
    assert 100 * found.scores.rank(1) == pytest.approx(first['rank-1'])


def test_large_tests_are_sampled_the_same_twice():
    rows = [(f'{n}.jpg', n % 40, 1, n // 1000, 'test') for n in range(2000)]
    table = FeatureTable(torch.randn(2000, 2), Records.from_rows('x', rows))
    assert len(some_images(table)) == 1000
    assert (some_images(table) == some_images(table)).all()
    people = some_people(table.records)
    assert len(set(table.records.identity[people])) == 10 and len(people) == 400
    assert (people == some_people(table.records)).all()


# the report


def test_a_training_leaves_pictures_and_a_report(bench):
    page = Page(bench.run / 'report.html')
    assert sorted(file.stem for file in (bench.run / 'figures').iterdir()) == sorted(NAMES)
    assert len(page.pictures) == len(NAMES) == len({one['alt'] for one in page.pictures})
    assert all(link.startswith('data:image/png;base64,') for link in page.links)
    for words in (
        'one image of each person in each of the cameras 1, 2, 4 and 5 (all search)',
        '1 and 2 (indoor)',
        f"--out '{bench.run}' --figures",
        'do not pass it on',
        'P 2 12',
    ):
        assert words in page.words, words
    assert 'another dataset' not in page.words
    assert not (bench.run / 'model' / 'report.html').exists()


def test_the_same_run_gives_the_same_pictures(bench):
    table = load_features(bench.run / 'features.safetensors', bench.sysu)
    scores = [score_features(table, SYSU())]
    shown, missing = all_shown(of_training(bench.run / 'model', table, scores))
    assert not missing
    for one in shown:
        if one.name in (
            'ranked_typical',
            'distances',
            'heat_maps',
            'map',
        ):  # chosen by scores or a seed
            assert png(one.figure) == (bench.run / 'figures' / f'{one.name}.png').read_bytes()


def test_a_report_on_another_dataset(bench, tmp_path, monkeypatch):
    out = tmp_path / 'ä b'
    out.mkdir()
    (out / 'figures').mkdir()
    (out / 'figures' / 'losses.png').write_bytes(b'of an earlier report')
    (out / 'figures' / 'mine.png').write_bytes(b'')
    monkeypatch.setattr('idkl_nb.report.png', lambda figure: b'drawn')  # the same takes seconds
    words = ['--run', bench.run, '--root', bench.llcm, '--protocol', 'llcm']
    done = command(evaluate_main, *words, '--json', out / 'llcm.json', '--figures')
    assert done.code == 0, done.err
    page = Page(out / 'report.html')
    assert 'was trained on SYSU-MM01, another dataset than LLCM' in page.words
    assert 'same person from the same camera' in page.words and 'images of LLCM' in page.words
    names = {file.name for file in (out / 'figures').iterdir()}
    assert names == {f'{name}.png' for name in NAMES} - {'losses.png'} | {'mine.png'}


def test_a_file_of_features_gets_what_can_be_drawn(bench, tmp_path):
    table = load_features(bench.run / 'features.safetensors')
    evaluated = Evaluated(
        [score_features(table, SYSU(draws='seeded'))], table, SYSU(draws='seeded')
    )
    shown, missing = all_shown(evaluated)
    assert [one.name for one in shown] == ['cmc', 'distances', 'map']
    assert re.search('--root', ' '.join(missing)) and evaluated.dataset() == 'SYSU-MM01'


def test_what_stands_in_a_name_is_no_part_of_the_page(bench, tmp_path, monkeypatch):
    table = load_features(bench.run / 'features.safetensors')
    table = FeatureTable(table.features, table.records, dict(feature='<script>alert(1)</script>'))
    rules = SYSU(draws='seeded')
    evaluated = Evaluated([score_features(table, rules)], table, rules, command='a > "b" & <i>')
    monkeypatch.setattr('idkl_nb.report.all_shown', lambda _: ([], []))
    report_words.make_report(tmp_path, evaluated)
    text = (tmp_path / 'report.html').read_text()
    assert '<script' not in text and '&lt;script&gt;' in text and '<i>' not in text


def test_unknown_protocols_are_named():
    about = dict(protocol='Other', direction='infrared to visible', metric='cosine', rerank='all')
    trials = pd.DataFrame([dict(queries=4, valid=3, gallery=9)])
    words = protocol_words(SimpleNamespace(about=about, trials=trials))
    assert 'The protocol is Other.' in words and '1 queries have no right image' in words
    assert 'the gallery and all queries' in words


# before the work


@pytest.mark.parametrize('main', [train_main, evaluate_main])
def test_a_missing_package_is_said_before_the_work(bench, main, monkeypatch, tmp_path):
    monkeypatch.setattr(report_words, 'find_spec', lambda name: None if name == 'captum' else 1)
    words = [*TINY, '--out', tmp_path / 'never', '--figures']
    if main is evaluate_main:
        words = ['--run', bench.run, '--root', bench.llcm, '--protocol', 'llcm', '--figures']
        words += ['--json', tmp_path / 'never']
    done = command(main, *words)
    assert done.code == 2 and "captum. Install them with pip install 'idkl_nb[viz]'" in done.err
    assert not (tmp_path / 'never').exists()


def test_images_that_can_not_be_read_leave_no_report(bench, tmp_path):
    root = shutil.copytree(bench.llcm, tmp_path / 'llcm')
    records = read_llcm(root).where(split='test')
    for path in records.path:
        (root / path).write_bytes(b'')
    file = tmp_path / 'f.npz'
    draw = torch.Generator().manual_seed(0)
    save_features(FeatureTable(torch.randn(len(records), 4, generator=draw), records), file)
    words = ['--features', file, '--root', root, '--protocol', 'llcm', '--figures']
    done = command(evaluate_main, *words, '--json', tmp_path / 's.json')
    assert done.code == 2 and 'this image is missing or damaged' in done.err
    assert (tmp_path / 's.json').exists()
    assert not (tmp_path / 'report.html').exists() and not (tmp_path / 'figures').exists()
