"Settings: what is refused, and what comes back from a file."

import pytest

from idkl_nb.assembly import IDKLConfig
from idkl_nb.config import PRESETS, TrainConfig

nan = float('nan')


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(P='12'), "P = '12': expected int, not str"),
        (dict(lr=None), 'expected float'),
        (dict(milestones=13), 'milestones = 13'),
        (dict(compile=1), 'expected bool'),
        (dict(model=dict()), 'expected IDKLConfig'),
    ],
)
def test_a_wrong_type_is_named(wrong, message):
    with pytest.raises(TypeError, match=message):
        TrainConfig(**wrong)


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(precision='float16'), "'fp16', got 'float16'"),
        (dict(on_unreadable='ignore'), "'raise' or 'skip'"),
        (dict(batches=0), 'batches must be'),
        (dict(lr=nan), 'lr and clip'),
        (dict(clip=0.0), 'lr and clip'),
        (dict(ema=1.0), 'ema must lie between 0 and 1'),
        (dict(flip=2.0), 'flip is a probability, got 2.0'),
        (dict(channel=nan), 'channel is a probability'),
        (dict(seed=-1), 'seed must be at least 0'),
        (dict(warmup=nan), 'warmup must be at least 0'),
        (dict(accumulate=0), 'accumulate must be at least 1'),
        (dict(P=1), 'P must be at least 2'),
        (dict(height=15), 'height must be at least 16'),
    ],
)
def test_a_wrong_value_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**wrong)


@pytest.mark.parametrize('name', PRESETS)
def test_settings_come_back_from_their_dictionary(name):
    preset = PRESETS[name]
    assert TrainConfig.from_dict(preset.to_dict()) == preset
    assert preset.precision == 'auto'


def test_what_is_missing_is_as_the_paper_has_it():
    assert TrainConfig.from_dict({}) == TrainConfig()
    config = TrainConfig.from_dict(dict(P=3, model=dict(lambda_csa=0.0), milestones=[1, 2]))
    assert config == TrainConfig(P=3, model=IDKLConfig(lambda_csa=0.0), milestones=(1, 2))


@pytest.mark.parametrize('wrong', [3, [1], dict(model=3), dict(milestones=5)])
def test_what_is_no_dictionary_of_settings_is_refused(wrong):
    with pytest.raises(TypeError, match='expected a'):
        TrainConfig.from_dict(wrong)


@pytest.mark.parametrize('wrong', [dict(learning_rate=1.0), dict(model=dict(learning_rate=1.0))])
def test_an_unknown_setting_is_named(wrong):
    with pytest.raises(ValueError, match=r"unknown settings \['learning_rate'\]"):
        TrainConfig.from_dict(wrong)
