"Which precision a device computes in."

import time

import pytest
import torch

from idkl_nb.precision import Device, autocast, decide, this_device

OLD = Device('cpu', 'a processor', gain=0.07)
H100 = Device('cuda', 'NVIDIA H100', (9, 0))


@pytest.mark.parametrize(
    'device, wanted',
    [
        (Device('cuda', 'Tesla T4', (7, 5)), 'fp16'),
        (H100, 'bf16'),
        (OLD, 'no'),
        (Device('cpu', 'a processor', gain=2.4), 'bf16'),
        (Device('cpu', 'a processor', gain=None), 'no'),
        (Device('mps', 'M3'), 'no'),
    ],
)
def test_auto_takes_the_fastest_that_is_sound(device, wanted):
    decision = decide('auto', device)
    assert decision.used == wanted and not decision.slow


def test_another_precision_is_slow_where_it_is():
    assert decide('bf16', OLD).slow and 'auto would take float32' in str(decide('bf16', OLD))
    assert not decide('bf16', H100).slow
    assert not decide('no', H100).slow


@pytest.mark.parametrize('use', [lambda: decide('float16', OLD), lambda: autocast('half', 'cpu')])
def test_an_unknown_word_is_refused(use):
    with pytest.raises(ValueError, match="'bf16' or 'fp16', got '(float16|half)'"):
        use()


def test_looking_at_this_device_takes_little_time():
    began = time.perf_counter()
    assert decide('auto', this_device('cpu')).used in ('no', 'bf16')
    assert time.perf_counter() - began < 3


@pytest.mark.parametrize('precision, dtype', [('no', torch.float32), ('bf16', torch.bfloat16)])
def test_autocast_computes_in_it(precision, dtype):
    with autocast(precision, 'cpu'):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
