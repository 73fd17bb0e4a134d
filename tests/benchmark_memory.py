"""GPU memory that a training step needs, computed without a GPU; and measured, where there is one.

Parameters, gradients and Adam's two moments, and all that the forward pass keeps for the backward
pass.

    python tests/benchmark_memory.py [--out nbs/results/memory.csv]
    python tests/benchmark_memory.py --measure --out memory_measured.csv

What is kept is counted by asking autograd, for four images and for eight, on the CPU; the
difference is what an image costs. Not counted: CUDA's own context, the workspace of convolutions
and what the allocator wastes, some 1 to 2 GB together.

`--measure` makes steps of the real trainer, with augmentation, on the device that there is:
`measured_GB` is the peak of what tensors took, `reserved_GB` what the allocator held for them."""

import argparse
import csv
import gc
import time
from dataclasses import replace
from pathlib import Path

import torch
from benchmark_machine import random_batch

from idkl_nb.augmentation import step_generator
from idkl_nb.config import PRESETS
from idkl_nb.devices import make_accelerator
from idkl_nb.model import IDKL, IDKLObjective
from idkl_nb.training import Trainer

BATCHES = {  # presets, and batches P x K of each
    'sysu-paper': ((12, 5), (10, 4), (8, 4), (4, 4)),
    'sysu-released': ((12, 5),),
    'embedded': ((8, 4),),
}


def kept_bytes(model, objective, images, precision):
    "Bytes that autograd keeps for the backward pass, each storage once, without the weights"
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}
    alive = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    half = len(images) // 2
    ids = torch.arange(half).repeat(2)
    modality = torch.arange(2).repeat_interleave(half)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
            features = model(images)
        objective(features, ids, modality)
    return sum(storages.values())


def pictures(count, config):
    return torch.randn(count, 3, config.height, config.width).contiguous(
        memory_format=torch.channels_last
    )


def computed(preset, batches):
    "Rows of the table, from what autograd keeps"
    config = PRESETS[preset]
    model = IDKL(replace(config.model, weights=None), 395).train()
    model.to(memory_format=torch.channels_last)
    objective = IDKLObjective(config.model)
    parameters = sum(p.numel() for p in model.parameters())
    for precision in ('bf16', 'no'):
        few = kept_bytes(model, objective, pictures(4, config), precision)
        more = kept_bytes(model, objective, pictures(8, config), precision)
        # weight, gradient, two moments; and a copy of the weights for bfloat16
        state = (18 if precision == 'bf16' else 16) * parameters
        for P, K in batches:
            activations = few + (more - few) / 4 * (2 * P * K - 4)
            yield dict(
                preset=preset,
                height=config.height,
                width=config.width,
                P=P,
                K=K,
                images=2 * P * K,
                precision=precision,
                parameters=parameters,
                state_GB=round(state / 1e9, 2),
                activations_GB=round(activations / 1e9, 2),
                total_GB=round((state + activations) / 1e9, 2),
            )


def step_seconds(config, precision, steps):
    "Time of each step of the real trainer, after three that warm up"
    trainer = Trainer(config.without_weights(), 395, make_accelerator(precision))
    device = trainer.accelerator.device
    batch = random_batch(config)
    if device.type == 'cuda':
        batch = batch._replace(images=batch.images.pin_memory())

    seconds = []
    for step in range(steps + 3):
        if step == 3 and device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        trainer.step([(batch, step_generator(0, step))], config.lr).sum().item()
        seconds.append(time.perf_counter() - began)
    return device, seconds[3:]


def measured(preset, batches, steps=8):
    "Rows of the table, from steps on the device that there is"
    for precision in ('bf16', 'no'):
        for P, K in batches:
            config = replace(PRESETS[preset], P=P, K=K)
            device, seconds = step_seconds(config, precision, steps)
            on_gpu = device.type == 'cuda'
            yield dict(
                device=torch.cuda.get_device_name(device) if on_gpu else device.type,
                torch=torch.__version__,
                preset=preset,
                height=config.height,
                width=config.width,
                P=P,
                K=K,
                images=2 * P * K,
                precision=precision,
                measured_GB=round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_gpu else None,
                reserved_GB=round(torch.cuda.max_memory_reserved() / 1e9, 2) if on_gpu else None,
                images_per_s=round(2 * P * K / sorted(seconds)[len(seconds) // 2], 1),
            )
            gc.collect()
            if on_gpu:
                torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('nbs/results/memory.csv'))
    parser.add_argument('--presets', nargs='+', choices=list(BATCHES), default=list(BATCHES))
    parser.add_argument('--measure', action='store_true')
    words = parser.parse_args()
    rows = []
    for preset in words.presets:
        for row in (measured if words.measure else computed)(preset, BATCHES[preset]):
            rows.append(row)
            print(row, flush=True)

    with open(words.out, 'w', newline='') as opened:
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__':
    main()
