"""Time and memory of a whole training step, against the plain float32 form of the same step.

    python tests/benchmark_step.py [--size 256 128] [--backbone resnet50] [--P 12] [--K 5]

Forward, all loss terms, backward and Adam on random images. `plain` is what one writes first:
float32, maps in the default layout, GeM and the purifier's maps by autograd, Adam with a loop over
tensors. The other forms add one thing after the other: pooling without stored maps, channels_last,
bfloat16 autocast, the fused optimiser, which is the last. Each form runs in a process of its own;
memory is the peak of that process. The first step warms up and is not counted.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import nn

from idkl_nb.model import IDKL, IDKLConfig, IDKLObjective
from idkl_nb.purifier import PooledPurified

FORMS = ('plain', 'pooling', 'channels_last', 'bfloat16', 'fused')


class PlainPool(nn.Module):
    def forward(self, x):
        return x.clamp(min=1e-6).pow(3).mean((-2, -1)).pow(1 / 3)


def plain_purifier(purifier, pool):
    "Pooled vectors by way of every map"

    def pooled(specific):
        instance = (specific - specific.mean((2, 3), keepdim=True)) / (
            specific.var((2, 3), keepdim=True, unbiased=False) + purifier.eps
        ).sqrt()
        e, r = purifier.masks(pool(specific), pool(instance))
        e4, r4 = e[..., None, None], r[..., None, None]
        enhanced, reduced = e4 * specific, r4 * instance
        return PooledPurified(
            pool(specific),
            pool(instance),
            pool(enhanced),
            pool(reduced),
            pool(e4 * reduced + r4 * enhanced),
            e,
            r,
        )

    return pooled


def measure(form, a):
    level = FORMS.index(form)
    torch.manual_seed(0)
    config = IDKLConfig(backbone=a.backbone, reduction='mean')
    model = IDKL(config, 395).to(a.device).train()
    objective = IDKLObjective(config)
    if level < 1:
        model.pools = nn.ModuleDict(dict(shared=PlainPool(), specific=PlainPool()))
        model.purifier.pooled = plain_purifier(model.purifier, PlainPool())
    if level >= 2:
        model.to(memory_format=torch.channels_last)
    way = dict(fused=True) if level >= 4 else dict(foreach=False)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-5, **way)

    images = torch.randn(2 * a.P * a.K, 3, *a.size, device=a.device)
    if level >= 2:
        images = images.contiguous(memory_format=torch.channels_last)
    ids = torch.arange(a.P).repeat_interleave(2 * a.K).to(a.device)
    modality = torch.arange(2).repeat_interleave(a.K).repeat(a.P).to(a.device)

    seconds = []
    for _ in range(a.repeats + 1):
        if a.device == 'cuda':
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast(a.device, torch.bfloat16, enabled=level >= 3):
            features = model(images)
        losses = objective(features, ids, modality)
        losses.total.backward()
        optimiser.step()
        optimiser.zero_grad()
        total = losses.total.item()
        del features, losses
        seconds.append(time.perf_counter() - start)
    peak = (
        torch.cuda.max_memory_allocated() / 2**30
        if a.device == 'cuda'
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    print(json.dumps(dict(seconds=statistics.median(seconds[1:]), GiB=peak, total=total)))


def measured(form, a):
    "The same in a process of its own"
    command = [sys.executable, __file__, '--form', form, '--backbone', a.backbone]
    for name in ('P', 'K', 'repeats', 'device'):
        command += [f'--{name}', str(getattr(a, name))]
    command += ['--size', *map(str, a.size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--size', type=int, nargs=2, default=(256, 128))
    parser.add_argument('--backbone', default='resnet50')
    parser.add_argument('--P', type=int, default=12)
    parser.add_argument('--K', type=int, default=5)
    parser.add_argument('--repeats', type=int, default=1)
    parser.add_argument('--forms', nargs='+', choices=FORMS, default=FORMS)
    parser.add_argument('--form', choices=FORMS)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    a = parser.parse_args()
    if a.form:
        return measure(a.form, a)

    first = None
    for form in a.forms:
        result = measured(form, a)
        first = first or result
        time_share = 100 * result['seconds'] / first['seconds']
        memory_share = 100 * result['GiB'] / first['GiB']
        print(
            f'{form:14} {result["seconds"]:6.2f} s a step, {time_share:4.0f} % of {a.forms[0]}; '
            f'peak {result["GiB"]:5.2f} GiB, {memory_share:4.0f} %; loss {result["total"]:.3f}',
            flush=True,
        )


if __name__ == '__main__':
    main()
