"The recipes for trackers, word for word as the page shows them, with the real packages, offline."

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from idkl_nb.loggers import ToTensorBoard, numbers

page = Path(__file__).resolve().parents[1] / 'nbs' / 'workshop' / 'loggers.ipynb'
ROWS = pd.DataFrame(
    dict(total=[3.0, 2.5], triplet_sh=[0.5, 0.25], precision=['no', 'no']),
    index=pd.Index([7, 8], name='step'),
)
EXPECTED = {'total': [(7, 3.0), (8, 2.5)], 'triplet_sh': [(7, 0.5), (8, 0.25)]}


def recipe(name, **known):
    "A function of the page, with what it expects to be there"
    text = '\n'.join(cell.source for cell in nbformat.read(page, 4).cells)
    source = re.search(rf'```python\n(def {name}\(.*?)```', text, re.S)[1]
    assert len(source.strip().splitlines()) == 3
    known['numbers'] = numbers
    exec(source, known)
    return known[name]


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()['scalars']
    }


def test_a_row_is_a_step_and_its_numbers():
    assert list(numbers(ROWS)) == [
        (7, dict(total=3.0, triplet_sh=0.5)),
        (8, dict(total=2.5, triplet_sh=0.25)),
    ]


def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / 'recipe')) as writer:
        recipe('to_tensorboard', writer=writer)(ROWS)
    ToTensorBoard(tmp_path / 'built in')(ROWS)
    assert events(tmp_path / 'recipe') == events(tmp_path / 'built in') == EXPECTED


def history(file):
    "Step and numbers of each row in a file of an offline run: records behind heads of 7 bytes"
    from wandb.proto.wandb_internal_pb2 import Record

    data = file.read_bytes()[7:]
    while data:
        length = int.from_bytes(data[4:6], 'little')
        record = Record.FromString(data[7 : 7 + length])
        data = data[7 + length :]
        items = {(item.key or item.nested_key[0]): item for item in record.history.item}
        if items:
            yield {name: json.loads(item.value_json) for name, item in items.items()}


def test_weights_and_biases(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    for name, value in dict(MODE='offline', DIR=str(tmp_path), SILENT='true').items():
        monkeypatch.setenv(f'WANDB_{name}', value)
    nothing_of_the_machine = wandb.Settings(
        console='off', x_disable_stats=True, x_disable_meta=True, x_save_requirements=False
    )
    run = wandb.init(project='idkl', config=dict(lr=0.1), settings=nothing_of_the_machine)
    recipe('to_wandb', wandb=wandb)(ROWS)
    run.finish()
    wandb.teardown()  # until it is done, the file may be empty

    (file,) = tmp_path.rglob('*.wandb')
    rows = list(history(file))
    for name, values in EXPECTED.items():
        assert [(row['_step'], row[name]) for row in rows] == values


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    mlflow.set_tracking_uri((tmp_path / 'mlflow').as_uri())
    with mlflow.start_run() as run:
        recipe('to_mlflow', mlflow=mlflow)(ROWS)
    client = mlflow.MlflowClient()
    for name, values in EXPECTED.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [(metric.step, metric.value) for metric in history] == values
