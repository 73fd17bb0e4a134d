"""Does the claim of the preset `embedded` hang on rounding?

L_b and IDKL on three worlds, in float32 and with the rounding of bfloat16; rows that are there are
not computed again.

    python tests/benchmark_preset.py [--worlds 11 12 13] [--out nbs/results/preset.csv]

Few CPUs are fast in bfloat16, so its rounding is imitated where that is slow: inputs, weights and
outputs of convolutions and linear maps, and outputs of normalisations and rectifiers, are rounded
to bfloat16 in the forward pass, and so are their gradients; the products are summed in float32, as
the hardware does. Worlds 11 to 13 are no worlds that settings were chosen on."""

import argparse
import dataclasses
import itertools
from pathlib import Path

import accelerate
import pandas as pd
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from idkl_nb.config import PRESETS
from idkl_nb.experiment_rows import ROWS, changed
from idkl_nb.trial import Trial, append_row, run_trial

PRODUCTS = (F.conv2d, F.linear)
OTHERS = (F.batch_norm, F.relu, torch.relu)


def rounded(x):
    "The same numbers in float32 with bfloat16's 8 bits; the gradient is rounded, too"
    return x.bfloat16().float() if isinstance(x, torch.Tensor) and x.dtype == torch.float32 else x


class Rounding(TorchFunctionMode):
    "While it is active, layers round as they do in bfloat16"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS:
            args = tuple(map(rounded, args))
        result = func(*args, **(kwargs or {}))
        return rounded(result) if func in PRODUCTS + OTHERS else result


def is_there(file, trial, rounding):
    "Whether the table has this row"
    if not file.exists():
        return False
    rows = pd.read_csv(file)
    return ((rows.key == trial.key) & (rows.rounding == rounding)).any()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--worlds', type=int, nargs='+', default=(11, 12, 13))
    parser.add_argument('--methods', nargs='+', default=('L_b', 'IDKL'))
    parser.add_argument('--rounding', nargs='+', default=('float32', 'bfloat16'))
    parser.add_argument('--out', type=Path, default=Path('nbs/results/preset.csv'))
    parser.add_argument('--work', type=Path, default=Path('runs/experiments'))
    words = parser.parse_args()

    autocast = accelerate.Accelerator.autocast
    base = dataclasses.replace(PRESETS['embedded'], precision='no')
    for world, method, rounding in itertools.product(words.worlds, words.methods, words.rounding):
        trial = Trial(changed(base, **ROWS[method]), world)
        if is_there(words.out, trial, rounding):
            continue
        imitating = rounding == 'bfloat16'
        accelerate.Accelerator.autocast = (lambda self: Rounding()) if imitating else autocast

        result = run_trial(trial, words.work / rounding, progress=False)
        scores = [name for name in result if name[-3:] in ('i2v', 'v2i')]
        names = ('key', *scores, 'steps', 'seconds', 'torch')
        row = dict(world=world, method=method, rounding=rounding, threads=torch.get_num_threads())
        row |= {name: result[name] for name in names}
        append_row(words.out, row)
        print({name: result[name] for name in names}, flush=True)


if __name__ == '__main__':
    main()
