"""Time and memory of all loss terms at the paper's size, against plainer forms of the same terms.

    python tests/benchmark_losses.py [--images 120] [--places 24 9] [--repeats 5]

Forward and backward on maps F_sp and F_sh of 2048 channels and 395 identities in float32. `fast`
is the package's objective in training. `plain gem` and `plain three` differ from it in one thing:
the pooling of F_sh, or the purifier's three poolings, are autograd's. `loops` pools and masks one
image at a time, and computes every row of the affinities, every anchor of the triplet and every
divergence in a loop. Each form runs in a process of its own, in turn, so that peak memory can be
told apart and all meet the same machine. Memory is what the process holds above its inputs at the
worst moment.

    python tests/benchmark_losses.py --step resnet50 [--images 16]

Instead of the losses alone, whole training steps on images of 256 x 128; without `loops`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from idkl_nb.assembly import IDKLConfig
from idkl_nb.backbone import BNNeck, GeM
from idkl_nb.mdr import pair_modalities
from idkl_nb.modality import ModalityHeads, reverse_gradient
from idkl_nb.model import IDKL, Branch, Features, IDKLObjective, Purification, borrow
from idkl_nb.purifier import InformationPurifier, PooledPurified

C, IDENTITIES = 2048, 395
FORMS = 'fast', 'plain gem', 'plain three', 'loops'


def labels(images):
    "12 identities at most, each in both modalities"
    people = min(12, images // 2)
    return torch.arange(images) % people, (torch.arange(images) // people) % 2


def inputs(images, places):
    "Two maps, labels, and the layers behind the maps"
    torch.manual_seed(0)
    maps = [torch.rand(images, C, *places).requires_grad_() for _ in range(2)]
    ids, modality = labels(images)
    parts = nn.ModuleDict(
        dict(
            pool=GeM(),
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

    def guess(heads, f):
        return [head(f) for head in heads.heads]

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


def fast(maps, ids, modality, parts, config):
    f_sh = parts['pool'](maps[1])
    pooled = parts['purifier'].pooled(maps[0])
    features = finish(f_sh, pooled, [m.mean((-2, -1)) for m in maps], parts)
    return IDKLObjective(config)(features, ids, modality).total


def loops(maps, ids, modality, parts, config):
    def pool(x):
        return x.clamp(min=1e-6).pow(3).mean((-2, -1)).pow(1 / 3)

    p = parts['purifier']
    rows = []
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

    def gap(f, identity):
        own = ids == identity
        return (f[own & (modality == 0)].mean(0) - f[own & (modality == 1)].mean(0)).norm()

    sh, sp, ip = x.shared, x.specific, x.purified
    L_e = torch.stack(
        [F.softplus(entropy(a) - entropy(b)) for a, b in zip(ip.logits_enhanced, sp.logits)]
    ).mean()
    L_r = torch.stack(
        [
            F.softplus(gap(pooled.reduced, identity) - gap(pooled.normalised, identity))
            for identity in ids.unique()
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


def losses(form, images, places):
    "A function that goes forward and backward, through all loss terms"
    maps, ids, modality, parts = inputs(images, places)
    config = IDKLConfig(taps=1)
    parts['pool'].train(form != 'plain gem')
    parts['purifier'].train(form != 'plain three')
    compute = loops if form == 'loops' else fast

    def run():
        parts.zero_grad()
        for m in maps:
            m.grad = None
        total = compute(maps, ids, modality, parts, config)
        total.backward()
        return total.item(), [m.grad.norm().item() for m in maps]

    return run


def steps(form, backbone, images):
    "A function that makes a training step"
    torch.manual_seed(0)
    config = IDKLConfig(backbone=backbone, reduction='mean')
    model, objective = IDKL(config, IDENTITIES), IDKLObjective(config)
    model.pools.train(form != 'plain gem')
    model.purifier.train(form != 'plain three')
    adam = torch.optim.Adam(model.parameters(), lr=3e-5, fused=True)
    x, (ids, modality) = torch.randn(images, 3, 256, 128), labels(images)

    def run():
        adam.zero_grad()
        total = objective(model(x), ids, modality).total
        total.backward()
        adam.step()
        return total.item(), []

    return run


def measure(run, repeats):
    "In this process; the first run warms up, and its peak counts; of the others the fastest"

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB

    before, seconds = peak(), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        total, slope = run()
        seconds.append(time.perf_counter() - start)
    return dict(
        total=total, slope=slope, seconds=min(seconds[1:]), above_inputs_GiB=peak() - before
    )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=120)
    parser.add_argument('--places', type=int, nargs=2, default=(24, 9))
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--step', metavar='BACKBONE')
    parser.add_argument('--form', choices=FORMS)
    a = parser.parse_args()
    if a.form:
        run = steps(a.form, a.step, a.images) if a.step else losses(a.form, a.images, a.places)
        print(json.dumps(measure(run, a.repeats)))
        sys.exit()

    results = {}
    for form in FORMS[:3] if a.step else FORMS:
        command = [sys.executable, __file__, *sys.argv[1:], '--form', form]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[form] = json.loads(output)
        times = results[form]['seconds'] / results['fast']['seconds']
        differ = abs(results[form]['total'] / results['fast']['total'] - 1)
        GiB = results[form]['above_inputs_GiB']
        print(
            f'{form:12} {results[form]["seconds"]:8.2f} s ({times:.2f} times), {GiB:.2f} GiB; '
            f'totals differ by {differ:.1e}',
            flush=True,
        )
