"""Time and memory of a whole training step, against the plain float32 form of the same step.

    python tests/benchmark_step.py [--size 256 128] [--backbone resnet50] [--P 12] [--K 5]
        [--forms plain fused compiled] [--peak 989] [--out step.csv]

Forward, all loss terms, backward and Adam on random images. `plain` is what one writes first:
float32, maps in the default layout, GeM and the purifier's maps by autograd, Adam with a loop over
tensors. The other forms add one thing after the other: pooling without stored maps, channels_last,
bfloat16 autocast, the fused optimiser. Three more are run when they are named, each `fused` with
one thing changed: `tuned` lets cuDNN try its kernels, `compiled` is torch.compile for the network,
`float16` has float16 and a scaler in place of bfloat16.

Each form runs in a process of its own; memory is the peak of that process, on a GPU that of the
timed steps. The first step warms up and is not counted. Operations of products and convolutions are
counted on the CPU for eight images; `--peak` is what the device can do at most. On a GPU, PyTorch
takes TF32 for the convolutions of the float32 forms.
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from idkl_nb.assembly import IDKLConfig
from idkl_nb.model import IDKL, IDKLObjective
from idkl_nb.purifier import PooledPurified

FORMS = ('plain', 'pooling', 'channels_last', 'bfloat16', 'fused')
MORE = ('tuned', 'compiled', 'float16')


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


def network(form, a):
    "The network in this form, and its optimiser"
    level = FORMS.index('fused' if form in MORE else form)
    torch.manual_seed(0)
    config = IDKLConfig(backbone=a.backbone, reduction='mean')
    model = IDKL(config, 395).to(a.device).train()
    if level < 1:
        model.pools = nn.ModuleDict(dict(shared=PlainPool(), specific=PlainPool()))
        model.purifier.pooled = plain_purifier(model.purifier, PlainPool())
    if level >= 2:
        model.to(memory_format=torch.channels_last)
    if form == 'compiled':
        model.compile()

    way = dict(fused=True) if level >= 4 else dict(foreach=False)
    return model, torch.optim.Adam(model.parameters(), lr=3e-5, **way)


def random_batch(form, a):
    "Images, identities and modalities"
    images = torch.randn(2 * a.P * a.K, 3, *a.size, device=a.device)
    if form not in FORMS[:2]:
        images = images.contiguous(memory_format=torch.channels_last)
    ids = torch.arange(a.P).repeat_interleave(2 * a.K).to(a.device)
    modality = torch.arange(2).repeat_interleave(a.K).repeat(a.P).to(a.device)
    return images, ids, modality


def stepper(form, a):
    "A function that makes a step, and gives the loss"
    model, optimiser = network(form, a)
    objective = IDKLObjective(IDKLConfig(backbone=a.backbone, reduction='mean'))
    images, ids, modality = random_batch(form, a)
    half = torch.float16 if form == 'float16' else torch.bfloat16
    scaler = torch.amp.GradScaler(a.device, enabled=form == 'float16')
    torch.backends.cudnn.benchmark = form == 'tuned'

    def step():
        with torch.autocast(a.device, half, enabled=form not in FORMS[:3]):
            features = model(images)
        losses = objective(features, ids, modality)
        scaler.scale(losses.total).backward()
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        return losses.total.item()

    return step


def measure(form, a):
    "Print time, memory and the last loss as JSON"
    step = stepper(form, a)
    seconds = []
    for n in range(a.warmup + a.repeats):
        if a.device == 'cuda':
            torch.cuda.synchronize()
            if n == a.warmup:
                torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        total = step()
        seconds.append(time.perf_counter() - start)

    peak = (
        torch.cuda.max_memory_allocated() / 2**30
        if a.device == 'cuda'
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    timed = statistics.median(seconds[a.warmup :])
    print(json.dumps(dict(seconds=timed, first_step=seconds[0], GiB=peak, total=total)))


def measured(form, a):
    "The same in a process of its own; a sentence if it fails"
    command = [sys.executable, __file__, '--form', form, '--backbone', a.backbone]
    for name in ('P', 'K', 'warmup', 'repeats', 'device'):
        command += [f'--{name}', str(getattr(a, name))]
    command += ['--size', *map(str, a.size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=a.limit)
    except subprocess.TimeoutExpired:
        return f'not within {a.limit:.0f} s'
    if done.returncode:
        return f'failed: {(done.stderr.strip() or "no message").splitlines()[-1]}'
    return json.loads(done.stdout.splitlines()[-1])


def operations(a):
    "TFLOP of a step, from eight images on the CPU"
    few = argparse.Namespace(**vars(a) | dict(P=2, K=2, device='cpu'))
    step = stepper('pooling', few)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e12 / 8 * 2 * a.P * a.K


def table_row(form, result, tflop, a):
    "What is kept of a form"
    images = 2 * a.P * a.K
    rate = tflop / result['seconds']
    return dict(
        device=torch.cuda.get_device_name() if a.device == 'cuda' else a.device,
        torch=torch.__version__,
        form=form,
        height=a.size[0],
        width=a.size[1],
        images=images,
        seconds=round(result['seconds'], 5),
        images_per_s=round(images / result['seconds'], 1),
        GiB=round(result['GiB'], 2),
        loss=round(result['total'], 3),
        first_step_s=round(result['first_step'], 2),
        TFLOP_per_s=round(rate, 2),
        of_peak=round(rate / a.peak, 3) if a.peak else None,
    )


def arguments():
    "What the command line says"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--size', type=int, nargs=2, default=(256, 128))
    parser.add_argument('--backbone', default='resnet50')
    parser.add_argument('--P', type=int, default=12)
    parser.add_argument('--K', type=int, default=5)
    parser.add_argument('--warmup', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=1)
    parser.add_argument('--forms', nargs='+', choices=FORMS + MORE, default=FORMS)
    parser.add_argument('--form', choices=FORMS + MORE)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--limit', type=float, help='seconds for a form')
    parser.add_argument('--peak', type=float, help='TFLOP/s of the device at most')
    parser.add_argument('--out', help='also write a table')
    return parser.parse_args()


def main():
    a = arguments()
    if a.form:
        return measure(a.form, a)

    tflop = operations(a) if a.out else None
    first = None
    rows = []
    failed = []
    for form in a.forms:
        result = measured(form, a)
        if isinstance(result, str):
            failed.append(form)
            print(f'{form:14} {result}', flush=True)
            continue

        first = first or result
        time_share = 100 * result['seconds'] / first['seconds']
        memory_share = 100 * result['GiB'] / first['GiB']
        digits = 2 if result['seconds'] > 1 else 4
        print(
            f'{form:14} {result["seconds"]:6.{digits}f} s a step, {time_share:4.0f} % of '
            f'{a.forms[0]}; peak {result["GiB"]:5.2f} GiB, {memory_share:4.0f} %; '
            f'loss {result["total"]:.3f}',
            flush=True,
        )
        if a.out:
            rows.append(table_row(form, result, tflop, a))

    if rows:
        with open(a.out, 'w', newline='') as opened:
            writer = csv.DictWriter(opened, list(rows[0]), lineterminator='\n')
            writer.writeheader()
            writer.writerows(rows)
    if failed:
        sys.exit(f'failed: {", ".join(failed)}')


if __name__ == '__main__':
    main()
