"The example that several notebooks share is trained once, and is whole or not there."

from dataclasses import replace

import pytest
import torch

from idkl_nb import examples
from idkl_nb.examples import both_methods, whole_objective

KEPT = 'whole-objective-'


@pytest.fixture
def quick(monkeypatch):
    "Two steps in place of 160, and few images"
    write = examples.write_sysu

    def write_few(world, folder, train, val, test, images):
        return write(world, folder, train[:3], val, test, images=2)

    monkeypatch.setattr(examples, 'write_sysu', write_few)
    config = replace(examples.FROM_NOTHING, P=2, epochs=1, batches=2, milestones=())
    monkeypatch.setattr(examples, 'FROM_NOTHING', config)


def names(folder):
    return [path.name.removesuffix(examples._version()) for path in folder.iterdir()]


def numbers(example):
    "Weights, log, and the next random number"
    return [*example.model.state_dict().values(), torch.as_tensor(example.log.total), torch.rand(1)]


def test_it_is_trained_once_and_comes_back_the_same(quick, tmp_path, monkeypatch):
    runs = tmp_path / 'runs'
    first = whole_objective(runs)
    kept = numbers(first)
    assert names(runs) == [KEPT] and len(first.log) == 2

    def trains_again(*_, **__):
        raise AssertionError('trained again')

    monkeypatch.setattr(examples, 'fit', trains_again)
    second = whole_objective(runs)
    assert all(map(torch.equal, kept, numbers(second)))
    assert second.config == examples.FROM_NOTHING and not second.model.training
    assert set(first.test.identity) == set(range(62, 70))
    for records in (second.train, second.test):
        assert all((records.root / path).is_file() for path in records.path)

    # other code, another example
    monkeypatch.setattr(examples, '_version', lambda: 'of other code')
    with pytest.raises(AssertionError, match='trained again'):
        whole_objective(runs)


def test_the_version_changes_with_code_and_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(examples.idkl_nb, '__file__', str(tmp_path / '__init__.py'))
    (tmp_path / 'weights').mkdir()
    versions = {examples._version()}
    for name in ('csa.py', 'weights/narrow.safetensors'):
        (tmp_path / name).write_text('other')
        versions.add(examples._version())
    assert len(versions) == 3


def test_two_that_train_at_once_leave_one_whole_example(quick, tmp_path, monkeypatch):
    "The second ends while the first is about to rename its folder"
    fit, kept = examples.fit, []

    def overtaken(*words, **options):
        monkeypatch.setattr(examples, 'fit', fit)
        kept.extend(numbers(whole_objective(tmp_path)))
        return fit(*words, **options)

    monkeypatch.setattr(examples, 'fit', overtaken)
    assert all(map(torch.equal, numbers(whole_objective(tmp_path)), kept))
    assert names(tmp_path) == [KEPT]


def test_both_methods_are_read_back_as_they_were_trained(quick, tmp_path, monkeypatch):
    short = {
        name: replace(config, P=2, epochs=1, batches=1, milestones=())
        for name, config in examples.METHODS.items()
    }
    monkeypatch.setattr(examples, 'METHODS', short)
    first = both_methods(tmp_path)
    monkeypatch.setattr(examples, 'fit', None)
    second = both_methods(tmp_path)
    for name, config in short.items():
        assert first[name].config == second[name].config == config
        for a, b in zip(*[e[name].model.state_dict().values() for e in (first, second)]):
            assert torch.equal(a, b)
    assert first['L_b'].model.purifier is None and first['IDKL'].model.purifier is not None


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError])
def test_a_training_that_ends_early_leaves_nothing(error, quick, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise error('no more')

    monkeypatch.setattr(examples, 'fit', stopped)
    with pytest.raises(error, match='no more'):
        whole_objective(tmp_path)
    assert not names(tmp_path)
