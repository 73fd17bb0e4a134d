"""Time and memory of a whole training step, against the plain float32 form of the same step.

    python tests/benchmark_step.py [--size 256 128] [--backbone resnet50] [--P 12] [--K 5] [--repeats 1]

Forward, all loss terms, backward and Adam on random images. `plain` is what one writes first: float32, maps in the default layout, GeM and the purifier's maps by
autograd, Adam with a loop over tensors. The other forms add one thing after the other: pooling without stored maps, channels_last, bfloat16 autocast, the fused
optimiser, which is the last. Each form runs in a process of its own; memory is the peak of that process. The first step warms up and is not counted.
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
    model, objective = IDKL(config, 395).to(a.device).train(), IDKLObjective(config)
    if level < 1:
        model.pools = nn.ModuleDict(dict(shared=PlainPool(), specific=PlainPool()))
        model.purifier.pooled = plain_purifier(model.purifier, PlainPool())
    if level >= 2:
        model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(
        model.parameters(), lr=3e-5, **(dict(fused=True) if level >= 4 else dict(foreach=False))
    )
    images = torch.randn(2 * a.P * a.K, 3, *a.size, device=a.device)
    if level >= 2:
        images = images.contiguous(memory_format=torch.channels_last)
    ids, modality = (
        torch.arange(a.P).repeat_interleave(2 * a.K),
        torch.arange(2).repeat_interleave(a.K).repeat(a.P),
    )
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


if __name__ == '__main__':
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
        measure(a.form, a)
        sys.exit()
    first = None
    for form in a.forms:
        command = [
            sys.executable,
            __file__,
            '--form',
            form,
            '--size',
            *map(str, a.size),
            '--backbone',
            a.backbone,
            '--P',
            str(a.P),
            '--K',
            str(a.K),
            '--repeats',
            str(a.repeats),
            '--device',
            a.device,
        ]
        found = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        first = first or found
        print(
            f'{form:14} {found["seconds"]:6.2f} s a step, {100 * found["seconds"] / first["seconds"]:4.0f} % of {a.forms[0]}; peak {found["GiB"]:5.2f} GiB, {100 * found["GiB"] / first["GiB"]:4.0f} %; loss {found["total"]:.3f}',
            flush=True,
        )
