"""What checked signatures cost: steps of a training, with checks and without, in turn.

    python tests/benchmark_types.py [--preset embedded] [--rounds 30]

All kinds of step belong to one training on random images, so that the moods of the machine meet
all of them. `none` lets every typed function believe that it is called by another one; `outer` is
how the package works; `all` checks every call, also those inside checked functions.
"""

import argparse
import statistics
import time
from unittest.mock import patch

import torch

from idkl_nb import common
from idkl_nb.config import PRESETS
from idkl_nb.devices import make_accelerator
from idkl_nb.records import Batch
from idkl_nb.training import Trainer


class Always:
    "In place of the variable that says whether a typed function is running"

    def __init__(self, trusted):
        self.trusted = trusted

    def get(self):
        return self.trusted

    def set(self, value):
        pass

    def reset(self, token):
        pass


KINDS = {'none': Always(True), 'outer': common._trusted, 'all': Always(False)}


def random_batch(config, number):
    "Images of P identities, K in each modality"
    generator = torch.Generator().manual_seed(number)
    images = 2 * config.P * config.K
    shape = images, 3, config.height, config.width
    return Batch(
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        torch.arange(config.P).repeat_interleave(2 * config.K),
        torch.arange(2).repeat_interleave(config.K).repeat(config.P),
        torch.zeros(images, dtype=torch.int64),
    )


def measure(config, rounds):
    "Seconds of each step, by kind"
    trainer = Trainer(config, config.P, make_accelerator('no'))
    seconds = {kind: [] for kind in KINDS}
    for number in range(rounds + 2):
        for kind, variable in KINDS.items():
            batch = random_batch(config, number), torch.Generator().manual_seed(number)
            with patch.object(common, '_trusted', variable):
                start = time.perf_counter()
                trainer.step([batch], lr=1e-5)
                seconds[kind].append(time.perf_counter() - start)
    return {kind: taken[2:] for kind, taken in seconds.items()}  # the first two warm up


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--preset', choices=PRESETS, default='embedded')
    parser.add_argument('--rounds', type=int, default=30)
    options = parser.parse_args()

    seconds = measure(PRESETS[options.preset], options.rounds)
    without = statistics.median(seconds['none'])
    for kind, taken in seconds.items():
        pairs = [1000 * (a - b) for a, b in zip(taken, seconds['none'])]
        more = statistics.median(pairs)
        print(
            f'checked {kind:6} {1000 * statistics.median(taken):7.1f} ms a step, '
            f'{more:+6.2f} ms, {100 * more / 1000 / without:+.2f} %'
        )
