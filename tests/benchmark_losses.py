"""Time and memory of all loss terms at the paper's size, against a plain form of the same terms.

    python tests/benchmark_losses.py [--images 120] [--places 24 9] [--repeats 5]

Forward and backward on maps F_sp and F_sh of 2048 channels and 395 identities in float32. `vectorised` is the package's objective; `plain` pools and masks
one image at a time and computes every row of the affinities, every anchor of the triplet and every divergence in a loop. Each form runs in a process of its
own, in turn, so that peak memory can be told apart and both meet the same machine. Memory is what the process holds above its inputs at the worst moment.
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
from torch.nn import functional as F

from idkl_nb.backbone import BNNeck, gem
from idkl_nb.mdr import pair_modalities
from idkl_nb.modality import ModalityHeads, reverse_gradient
from idkl_nb.model import Branch, Features, IDKLConfig, IDKLObjective, Purification, borrow
from idkl_nb.purifier import InformationPurifier, PooledPurified

C, IDENTITIES = 2048, 395


def inputs(images, places):
    "Two maps and labels: 12 identities in both modalities"
    torch.manual_seed(0)
    maps = [torch.rand(images, C, *places).requires_grad_() for _ in range(2)]
    ids, modality = torch.arange(images) % 12, (torch.arange(images) // 12) % 2
    parts = nn.ModuleDict(
        dict(
            purifier=InformationPurifier(C),
            shared=nn.Linear(C, IDENTITIES, bias=False),
            specific=nn.Linear(C, IDENTITIES, bias=False),
            neck_sh=BNNeck(C),
            neck_sp=BNNeck(C),
            neck_ip=BNNeck(C),
            confuser=ModalityHeads((C,), True),
            discriminator=ModalityHeads((C,), False),
        )
    )
    return maps, ids, modality, parts


def finish(f_sh, pooled, averaged, parts):
    "Features from pooled vectors; the same for both forms"
    necked = {'sh': parts['neck_sh'](f_sh), 'sp': parts['neck_sp'](pooled.specific)}
    guess = lambda heads, f: [head(f) for head in heads.heads]
    shared = Branch(
        None,
        f_sh,
        necked['sh'],
        parts['shared'](necked['sh']),
        guess(parts['confuser'], reverse_gradient(averaged[1])),
    )
    specific = Branch(
        None,
        pooled.specific,
        necked['sp'],
        parts['specific'](necked['sp']),
        guess(parts['discriminator'], averaged[0]),
    )
    return Features(
        shared,
        specific,
        Purification(
            pooled,
            parts['specific'](borrow(parts['neck_sp'], pooled.enhanced)),
            parts['specific'](parts['neck_ip'](pooled.purified)),
        ),
    )


def vectorised(maps, ids, modality, parts, config):
    features = finish(
        gem(maps[1]), parts['purifier'].pooled(maps[0]), [m.mean((-2, -1)) for m in maps], parts
    )
    return IDKLObjective(config)(features, ids, modality).total


def plain(maps, ids, modality, parts, config):
    def pool(x):
        return x.clamp(min=1e-6).pow(3).mean((-2, -1)).pow(1 / 3)

    p, rows = parts['purifier'], []
    for image in maps[0]:  # one image at a time, all its maps
        F_sp = image[None]
        F_in = (F_sp - F_sp.mean((2, 3), keepdim=True)) / (
            F_sp.var((2, 3), keepdim=True, unbiased=False) + p.eps
        ).sqrt()
        f, g = pool(F_sp), pool(F_in)
        m_e, m_r = p.masks(f, g)
        e, r = m_e[..., None, None], m_r[..., None, None]
        rows.append(
            (f, g, pool(e * F_sp), pool(r * F_in), pool(e * (r * F_in) + r * (e * F_sp)), m_e, m_r)
        )
    pooled = PooledPurified(*[torch.cat(column) for column in zip(*rows)])
    f_sh = torch.cat([pool(image[None]) for image in maps[1]])
    x = finish(
        f_sh, pooled, [torch.stack([image.mean((-2, -1)) for image in m]) for m in maps], parts
    )

    def distance(a, b):
        return (a - b).square().sum().clamp(min=1e-12).sqrt()

    def kl(p, q):
        return (p.exp() * (p - q)).sum()

    def reid(f, z):
        total = F.cross_entropy(z, ids)
        for i in range(len(f)):
            d = torch.stack([distance(f[i], other) for other in f])
            total = total + F.relu(
                config.margin + d[ids == ids[i]].max() - d[ids != ids[i]].min()
            ) / len(f)
        return total

    def graph(a, b):
        return [torch.stack([distance(row, other) for other in b]).log_softmax(0) for row in a]

    def tgsa(a, b):
        return sum(
            kl(s, t) + kl(s, u) + kl(u, t) for s, t, u in zip(graph(a, a), graph(b, b), graph(a, b))
        )

    def entropy(z):
        return -(z.softmax(0) * z.log_softmax(0)).sum()

    def divergence(z, y):
        return sum(kl(s.log_softmax(0), t.log_softmax(0)) for s, t in zip(z, y))

    sh, sp, ip = x.shared, x.specific, x.purified
    centre = lambda f, who, kind: f[(ids == who) & (modality == kind)].mean(0)
    L_e = torch.stack(
        [F.softplus(entropy(a) - entropy(b)) for a, b in zip(ip.logits_enhanced, sp.logits)]
    ).mean()
    L_r = torch.stack(
        [
            F.softplus(
                (centre(pooled.reduced, who, 0) - centre(pooled.reduced, who, 1)).norm()
                - (centre(pooled.normalised, who, 0) - centre(pooled.normalised, who, 1)).norm()
            )
            for who in ids.unique()
        ]
    ).mean()
    L_b = (
        reid(sh.pooled, sh.logits)
        + reid(sp.pooled, sp.logits)
        + F.cross_entropy(sh.modality[0], modality)
        + F.cross_entropy(sp.modality[0], modality)
    )
    L_ip = L_e + L_r + reid(pooled.purified, ip.logits_purified)
    L_tgsa = sum(tgsa(sp.pooled[modality == k], sh.pooled[modality == k]) for k in (0, 1))
    v, i = pair_modalities(sh.pooled, ids, modality)
    return (
        L_b
        + 0.1 * L_ip
        + 0.6 * L_tgsa
        + 0.8 * divergence(sh.logits, sp.logits)
        + tgsa(sh.pooled[v], sh.pooled[i])
        + divergence(sh.logits[v], sh.logits[i])
    )


def measure(form, images, places, repeats):
    "Run one form in this process; the first run warms up, and its peak counts"
    maps, ids, modality, parts = inputs(images, places)
    config = IDKLConfig(taps=1)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB
    before, seconds = peak(), []
    for _ in range(repeats + 1):
        parts.zero_grad()
        [setattr(m, 'grad', None) for m in maps]
        start = time.perf_counter()
        total = {'vectorised': vectorised, 'plain': plain}[form](maps, ids, modality, parts, config)
        total.backward()
        seconds.append(time.perf_counter() - start)
    slope = [m.grad.norm().item() for m in maps]
    print(
        json.dumps(
            dict(
                total=total.item(),
                slope=slope,
                seconds=statistics.median(seconds[1:]),
                above_inputs_GiB=peak() - before,
            )
        )
    )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=120)
    parser.add_argument('--places', type=int, nargs=2, default=(24, 9))
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--form', choices=('vectorised', 'plain'))
    a = parser.parse_args()
    if a.form:
        measure(a.form, a.images, a.places, a.repeats)
        sys.exit()
    found = {}
    for form in ('vectorised', 'plain'):
        command = [
            sys.executable,
            __file__,
            '--form',
            form,
            '--images',
            str(a.images),
            '--places',
            *map(str, a.places),
            '--repeats',
            str(a.repeats),
        ]
        found[form] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        print(f'{form:10}', found[form])
    print(
        f'plain / vectorised: {found["plain"]["seconds"] / found["vectorised"]["seconds"]:.1f} times the time; totals differ by {abs(found["plain"]["total"] / found["vectorised"]["total"] - 1):.1e}'
    )
