"Experiments, loggers, model cards and run folders."

from dataclasses import replace

import pandas as pd
import pytest
import torch

from idkl_nb.cards import model_card
from idkl_nb.common import DataError
from idkl_nb.config import PRESETS
from idkl_nb.features import FeatureTable
from idkl_nb.loggers import LivePlot
from idkl_nb.readers import read_sysu
from idkl_nb.resuming import refused_changes
from idkl_nb.run_folder import model_folder
from idkl_nb.runs import Experiment, data, experiment, new_run, protocols_of, score_run
from idkl_nb.whole_files import write_bytes
from idkl_nb.world import World
from idkl_nb.writers import write_sysu

smoke = PRESETS['smoke']


@pytest.fixture(scope='module')
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'world'
    return read_sysu(write_sysu(World(height=32, width=16), root, [1, 2], [3], [4, 5], images=4))


@pytest.fixture(scope='module')
def scores(records):
    test = records.where(split='test')
    features = torch.randn(len(test), 4, generator=torch.Generator().manual_seed(0))
    return score_run(FeatureTable(features, test))


def test_a_card_tells_no_path_and_counts_unreadable_images(records, scores):
    model = replace(smoke.model, weights='/home/somebody/net.pth')
    card = model_card(replace(smoke, model=model), records, scores, 'synthetic', unreadable=3)
    assert "`model.weights` = `'net.pth'`" in card and 'somebody' not in card
    assert '3 training images could not be read' in card


def test_a_card_of_the_paper_s_settings(records, scores):
    card = model_card(type(smoke)(), records, scores, 'RegDB')
    assert '- nothing\n' in card and 'could not be read' not in card
    assert 'Computed in' not in card and card.endswith('the same holds for them.\n')
    headings = [line for line in card.splitlines() if line.startswith('#')]
    assert headings == [
        '# Model card',
        '## Data',
        "## Settings that differ from the paper's",
        '## Scores',
        '## Use',
    ]


def test_an_experiment_that_is_none_is_refused():
    with pytest.raises(ValueError, match='Expected embedded, smoke, the root folder'):
        experiment('embeded')


def test_a_world_is_drawn_once_and_no_other_in_its_place(tmp_path):
    small = Experiment('small', smoke, people=(2, 1, 2))
    first = data(small, tmp_path)
    assert data(small, tmp_path).path.tolist() == first.path.tolist()
    with pytest.raises(ValueError, match='drawn with seed 7, coupling 0.65, not with seed 8'):
        data(replace(small, seed=8), tmp_path)
    for text in ('[1]', '{"seed": Infinity}', '{"people": 7}'):
        (tmp_path / 'data' / 'world.json').write_text(text)
        with pytest.raises(ValueError, match='does not describe a world'):
            data(small, tmp_path)


def test_runs_are_numbered(tmp_path):
    assert [new_run('run', tmp_path).name for _ in range(3)] == ['run', 'run-2', 'run-3']
    (tmp_path / 'file').touch()
    with pytest.raises(DataError, match="this folder can't be made"):
        new_run('run', tmp_path / 'file')


def test_each_dataset_has_its_protocols():
    assert [protocol.mode for protocol, _ in protocols_of('SYSU-MM01')] == ['all', 'indoor']
    for name in ('RegDB', 'LLCM'):
        assert [query for _, query in protocols_of(name, trial=2)] == ['infrared', 'visible']


def test_a_live_plot_collects_and_redraws(monkeypatch):
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(figure)

    def display(figure, display_id):
        shown.append(figure)
        return Handle()

    monkeypatch.setattr('IPython.display.display', display)
    plot = LivePlot(columns=('total', 'D', 'missing'))
    for start in (0, 2):
        plot(pd.DataFrame(dict(total=[2.0, 1.0], D=[1.0, 1.0]), index=[start, start + 1]))
    assert len(shown) == 2 and len(plot.log) == 4
    assert [ax.get_title() for ax in plot.figure.axes] == ['total', 'D']


def test_what_may_change_when_a_run_goes_on():
    assert refused_changes(smoke, replace(smoke, epochs=9, workers=1, keep=3)) == []
    fewer = refused_changes(smoke, replace(smoke, epochs=1))
    assert fewer == ['epochs = 1, began with 2']
    said = replace(smoke, precision='bf16')
    assert refused_changes(smoke, said) == ["precision = 'bf16', began with 'auto'"]
    assert refused_changes(smoke, said, precision='bf16') == []


def test_both_names_of_a_run_folder(tmp_path):
    (tmp_path / 'model').mkdir()
    with pytest.raises(FileNotFoundError, match='or model in it, with config.json'):
        model_folder(tmp_path)
    write_bytes(tmp_path / 'model' / 'config.json', b'{}')
    assert model_folder(tmp_path) == model_folder(tmp_path / 'model') == tmp_path / 'model'
