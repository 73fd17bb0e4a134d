"Folders to publish, cards, uploads to a hub that is none, and networks that come back."

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import TINY, command

from idkl_nb import load, pretrained
from idkl_nb.cards import TERMS, USE
from idkl_nb.checkpoints import CheckpointError
from idkl_nb.embed_command import embed_main
from idkl_nb.feature_files import load_features
from idkl_nb.features import embed
from idkl_nb.packaged_cards import packaged_cards
from idkl_nb.publish import publish_main
from idkl_nb.readers import read_dataset
from idkl_nb.run_folder import RunDescription
from idkl_nb.train_command import train_main
from idkl_nb.verify import TRAINED

FILES = {'model.safetensors', 'config.json', 'README.md'}


def refused(done, *words):
    assert done.code == 2, (done.out, done.err)
    assert done.err.startswith('idkl-publish: ') and 'Traceback' not in done.err
    for word in words:
        assert word in done.err, done.err


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run of idkl-train in a folder with a space and an umlaut, on drawn people"
    folder = tmp_path_factory.mktemp('publish') / 'läuft gut'
    done = command(train_main, *TINY, '--out', folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope='module')
def published(run):
    out = run.parent / 'zu zeigen'
    done = command(publish_main, '--run', run, '--out', out, '--title', 'Night')
    assert done.code == 0, done.err
    return out


def of_dataset(run, folder, name):
    "A copy of a run that says another dataset"
    import shutil

    copy = shutil.copytree(run / 'model', folder / f'of {name}')
    file = copy / 'config.json'
    about = json.loads(file.read_text())
    about['dataset'] = dict(name=name)
    file.write_text(json.dumps(about))
    (copy / 'card.md').unlink()
    return copy


class FakeHub:
    "What `HfApi` is asked"

    def __init__(self, fails=None):
        self.asked = []
        self.fails = fails

    def create_repo(self, repository, **options):
        if self.fails:
            raise self.fails
        self.asked.append((repository, options))

    def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
        self.asked.append((repo_id, sorted(allow_patterns), Path(folder_path)))
        return f'https://hub.example/{repo_id}'


@pytest.fixture
def hub(monkeypatch):
    huggingface_hub = pytest.importorskip('huggingface_hub')
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, 'HfApi', lambda: fake)
    return fake


# what is written


def test_the_folder_brings_the_network_back(run, published):
    assert {path.name for path in published.iterdir()} == FILES
    records = read_dataset(run / 'data').where(split='test')
    tables = [embed(load(place), records, progress=False) for place in (run, published)]
    assert torch.equal(tables[0].features, tables[1].features)
    assert tables[1].about['trained_on'] == tables[0].about['trained_on']
    assert json.loads(tables[1].about['trained_on'])['identities'] == [1, 2, 3, 4, 5, 6]


def test_nothing_but_the_shared_branch_is_published(run, published):
    from safetensors.torch import load_file

    names = load_file(published / 'model.safetensors')
    assert {name.split('.')[0] for name in names} == {'theta', 'phi', 'neck'}
    whole = (run / 'model' / 'weights.safetensors').stat().st_size
    assert (published / 'model.safetensors').stat().st_size < 0.7 * whole


def test_the_hub_reads_the_head_of_the_card(published):
    huggingface_hub = pytest.importorskip('huggingface_hub')
    text = (published / 'README.md').read_text(encoding='utf-8')
    data = huggingface_hub.ModelCard(text).data
    assert (data.license, data.library_name) == ('apache-2.0', 'idkl_nb')
    assert 'person-re-identification' in data.tags and data.dataset_terms == TERMS['synthetic']
    for words in (USE, TERMS['synthetic'], 'rank-1', '# Night', "load('zu zeigen')", 'minutes for'):
        assert words in text, words


def test_the_five_lines_of_a_card_run(published, tmp_path, monkeypatch, capsys):
    from PIL import Image

    text = (published / 'README.md').read_text(encoding='utf-8')
    lines = text.split('```python\n')[1].split('```')[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'zu zeigen').symlink_to(published)
    for name, grey in (('day.jpg', 90), ('night.png', 160)):
        Image.new('RGB', (40, 90), (grey, 50, 30)).save(name)
    exec(lines, {})
    assert -1e-6 <= float(capsys.readouterr().out.split('(')[-1].split(')')[0]) <= 2


def test_a_published_folder_serves_idkl_embed(run, published, tmp_path):
    words = ('--images', run / 'data', '--out', tmp_path / 'f.npz')
    for place in (published, run):
        assert command(embed_main, '--run', place, *words).code == 0
    assert (
        load_features(tmp_path / 'f.npz').features.shape[1]
        == load(published)(torch.rand(1, 3, 64, 32)).shape[1]
    )


def test_a_path_of_weights_is_not_published(run):
    config = RunDescription.read(run / 'model').config
    private = replace(config, model=replace(config.model, weights='/home/ada/start.safetensors'))
    assert pretrained.public_settings(private).model.weights == 'start.safetensors'


def test_a_folder_that_is_taken_stays_as_it_is(run, published, tmp_path):
    before = {path.name: path.read_bytes() for path in published.iterdir()}
    refused(command(publish_main, '--run', run, '--out', published), 'something is there already')
    assert {path.name: path.read_bytes() for path in published.iterdir()} == before

    refused(command(publish_main, '--run', tmp_path, '--out', tmp_path / 'x'), 'not hold a run')
    refused(command(publish_main, '--out', tmp_path / 'x'), 'nothing to do')
    refused(
        command(publish_main, '--run', run, '--out', tmp_path / 'x', '--weights', 'best'),
        'had no validation',
    )
    assert not list(tmp_path.iterdir())


# terms


def test_terms_of_a_dataset_reach_the_card(run, tmp_path):
    copy = of_dataset(run, tmp_path, 'SYSU-MM01')
    done = command(publish_main, '--run', copy, '--out', tmp_path / 'out')
    assert done.code == 0, done.err
    text = (tmp_path / 'out' / 'README.md').read_text(encoding='utf-8')
    head = text.split('---')[1]
    assert 'license: "other"' in head and 'terms-of-sysu-mm01' in head
    assert 'may not be passed on' in head and 'Not scored' in text and 'no proof' in text


def test_unknown_terms_must_be_said(run, tmp_path):
    copy = of_dataset(run, tmp_path, 'Mine')
    out = tmp_path / 'out'
    refused(command(publish_main, '--run', copy, '--out', out), '--terms', '(Mine)')
    assert not out.exists()
    words = ('--terms', 'Those on it agreed.', '--licence', 'cc-by-nc-4.0')
    assert command(publish_main, '--run', copy, '--out', out, *words).code == 0
    assert 'license: "cc-by-nc-4.0"' in (out / 'README.md').read_text(encoding='utf-8')


# the Hub


def test_an_upload_is_private_and_of_three_files(run, tmp_path, hub):
    out = tmp_path / 'out'
    done = command(publish_main, '--run', run, '--out', out, '--upload', 'ada/night')
    assert done.code == 0 and 'https://hub.example/ada/night' in done.out, done.err
    assert hub.asked == [
        ('ada/night', dict(private=True, exist_ok=True)),
        ('ada/night', sorted(FILES), out),
    ]
    assert "load('ada/night')" in (out / 'README.md').read_text(encoding='utf-8')

    # once more, of the folder alone
    assert command(publish_main, '--out', out, '--upload', 'ada/night', '--public').code == 0
    assert hub.asked[2] == ('ada/night', dict(private=False, exist_ok=True))


def test_weights_with_terms_are_uploaded_with_permission_only(run, tmp_path, hub):
    copy = of_dataset(run, tmp_path, 'LLCM')
    words = ('--run', copy, '--out', tmp_path / 'out', '--upload', 'ada/night')
    refused(command(publish_main, *words), 'LLCM', 'non-commercial', '--permitted')
    assert not hub.asked and not (tmp_path / 'out').exists()
    assert command(publish_main, *words, '--permitted').code == 0 and len(hub.asked) == 2


def test_what_keeps_an_upload_from_going(run, published, hub, monkeypatch):
    words = ('--out', published, '--upload')
    refused(command(publish_main, *words, 'night'), 'expected USER/NAME')
    hub.fails = OSError('401: who are you?')
    refused(command(publish_main, *words, 'ada/night'), '401: who are you?', 'hf auth login')
    monkeypatch.setitem(__import__('sys').modules, 'huggingface_hub', None)
    refused(command(publish_main, *words, 'ada/night'), 'pip install "idkl_nb[hub]"')


def test_a_repository_is_fetched_once_it_is_no_folder(published, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip('huggingface_hub')
    asked = []

    def download(repository, revision, allow_patterns):
        asked.append((repository, revision, set(allow_patterns)))
        if repository != 'ada/night':
            raise huggingface_hub.errors.LocalEntryNotFoundError('no connection\nmore')
        return str(published)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    monkeypatch.chdir(tmp_path)
    network = load('ada/night', revision='v1')
    assert (network.height, network.training) == (64, False)
    assert asked == [('ada/night', 'v1', FILES - {'README.md'})]
    with pytest.raises(FileNotFoundError, match=r'ada/day: neither a folder .*\(no connection\)'):
        load('ada/day')

    # a mistake in a path asks nobody
    (tmp_path / 'runs').mkdir()
    for wrong in ('runs/nihgt', 'nothing', tmp_path / 'nothing'):
        with pytest.raises(FileNotFoundError, match='no such folder'):
            load(wrong)
    assert len(asked) == 2


def test_a_damaged_folder_is_named(published, tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes((published / name).read_bytes())
    (tmp_path / 'model.safetensors').write_bytes(b'no weights')
    with pytest.raises(CheckpointError, match='model.safetensors: not the network'):
        load(tmp_path)
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(CheckpointError, match='does not describe a run'):
        load(tmp_path)


# what is in the package


@pytest.mark.parametrize('method', TRAINED)
def test_packaged_networks_are_loaded_by_name(method):
    network = load(method)
    assert network.trained_on['identities'][-1] == 210 and not network.training
    assert (network.config.model.lambda_mdr > 0) == (method == 'IDKL')


def test_packaged_weights_have_their_cards():
    huggingface_hub = pytest.importorskip('huggingface_hub')
    written = packaged_cards()
    folder = TRAINED['IDKL'].parent
    assert set(written) == {file.name for file in folder.iterdir() if file.suffix == '.md'}
    assert {Path(name).stem for name in written} == {
        file.stem for file in folder.iterdir() if file.suffix == '.safetensors'
    }
    for name, text in written.items():
        assert (folder / name).read_text(encoding='utf-8') == text, (
            'python -m idkl_nb.packaged_cards'
        )
        assert huggingface_hub.ModelCard(text).data.license == 'apache-2.0'
        assert USE in text and TERMS['synthetic'] in text
