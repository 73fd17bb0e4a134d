"The imitation of bfloat16 that made nbs/results/preset.csv: it must round as autocast does"

import torch
from benchmark_preset import Rounding
from torch import nn


def results(context):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 5),
    )
    images = torch.randn(4, 3, 8, 8)
    with context:
        logits = layers(images)
    logits.float().square().sum().backward()
    return logits.float(), layers[0].weight.grad


def test_rounds_as_autocast_does():
    exact = results(torch.autocast('cpu', enabled=False))
    short = results(torch.autocast('cpu', torch.bfloat16))
    imitated = results(Rounding())
    logits, gradient = zip(exact, short, imitated)
    assert torch.equal(logits[1], logits[2]) and not torch.equal(logits[0], logits[2])
    of_short, of_imitated = [(other - gradient[0]).norm() for other in gradient[1:]]
    assert 0.5 < of_imitated / of_short < 2  # sums of rounded numbers in another order
