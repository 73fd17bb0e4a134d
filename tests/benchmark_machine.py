"""How fast is a step of the preset `embedded` on this machine?

By precision, and by how OpenMP's threads wait, alone and beside a busy process.

    python tests/benchmark_machine.py [--rounds 3] [--steps 10] [--out nbs/results]

Forms take turns, each in a process of its own, and the fastest round of each counts. Writes
precision.csv and threads.csv."""

import argparse
import csv
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

WAYS = {  # of waiting; the environment of each
    # OpenMP's default; not set at all, the package would set it
    'as OpenMP has it': dict(GOMP_SPINCOUNT='300000'),
    'asleep at once': dict(OMP_WAIT_POLICY='PASSIVE'),
    'spin 500': dict(GOMP_SPINCOUNT='500'),
    'spin 1000': dict(GOMP_SPINCOUNT='1000'),
    'spin 2000': dict(GOMP_SPINCOUNT='2000'),
    'spin 5000': dict(GOMP_SPINCOUNT='5000'),
}
SETTINGS = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'OMP_NUM_THREADS')


def processor():
    "Its name"
    lines = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    names = re.findall(r'model name\s*: (.*)', lines)
    return names[0] if names else platform.processor() or platform.machine()


def random_batch(config):
    "Raw images and labels of a step"
    import torch

    from idkl_nb.records import Batch

    count = 2 * config.P * config.K
    images = torch.randint(0, 256, (count, 3, config.height, config.width), dtype=torch.uint8)
    ids = torch.arange(config.P).repeat_interleave(config.K).repeat(2)
    modality = torch.arange(2).repeat_interleave(count // 2)
    return Batch(images, ids, modality, modality)


def step_rate(precision, steps):
    "Images a second of the fastest step"
    from idkl_nb.augmentation import step_generator
    from idkl_nb.config import PRESETS
    from idkl_nb.devices import make_accelerator
    from idkl_nb.training import Trainer

    config = PRESETS['embedded']
    trainer = Trainer(config, 210, make_accelerator(precision))
    batch = random_batch(config)

    seconds = []
    for step in range(steps + 2):
        began = time.perf_counter()
        trainer.step([(batch, step_generator(0, step))], config.lr)
        seconds.append(time.perf_counter() - began)
    return len(batch.ids) / sorted(seconds[2:])[len(seconds) // 2 - 1]


def measure(precision, steps, way):
    "The same in a process of its own"
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, __file__, '--one', precision, '--steps', str(steps)]
    done = subprocess.run(
        command, env=environment | WAYS.get(way, {}), check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def write(file, rows):
    with open(file, 'w', newline='') as opened:
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--out', type=Path, default=Path('nbs/results'))
    parser.add_argument(
        '--one', help='print the images a second in this precision, and nothing else'
    )
    words = parser.parse_args()
    if words.one:
        return print(step_rate(words.one, words.steps))

    from importlib.metadata import version

    import torch

    from idkl_nb.precision import decide, this_device

    about = dict(processor=processor(), threads=torch.get_num_threads(), torch=version('torch'))

    rates = {precision: 0.0 for precision in ('no', 'bf16')}
    for _ in range(words.rounds):
        for precision in rates:
            steps = words.steps if precision == 'no' or rates['no'] < 3 * rates['bf16'] else 1
            rates[precision] = max(rates[precision], measure(precision, steps, None))
    choice = decide('auto', this_device())
    rows = []
    for name, rate in rates.items():
        row = dict(precision=name, images_per_s=round(rate, 1), auto=name == choice.used)
        rows.append(about | row)
    write(words.out / 'precision.csv', rows)
    share = rates[choice.used] / max(rates.values())
    print(f'{choice}; {rates}; auto has {share:.2f} of the better', flush=True)

    rows = []
    for busy in (False, True):
        others = [subprocess.Popen([sys.executable, '-c', 'while True: pass'])] if busy else []
        rates = {way: [] for way in WAYS}
        for _ in range(words.rounds):
            for way in WAYS:
                rates[way].append(measure('no', words.steps, way))
        for other in others:
            other.kill()
        for way, values in rates.items():
            beside = 'a busy process' if busy else 'nothing'
            rate = round(max(values), 1)
            rows.append(about | dict(beside=beside, waiting=way, images_per_s=rate))
        print(*rows[-len(WAYS) :], sep='\n', flush=True)
    write(words.out / 'threads.csv', rows)


if __name__ == '__main__':
    main()
