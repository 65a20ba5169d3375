"""How long quantizing an operand takes, beside copying it and beside the product that it feeds.

    python -m benchmarks.quantizers [--batch 64] [--threads 2]

Shapes are DeiT-T's: 197 tokens of 192 channels, 3 heads. Times are the least of several runs, as neighbours on a shared
machine only ever make them longer.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoq.quantizers import BaseQuantizer, OperandLayout, quantizer_class
from autoq.recipe import OperandConfig

TOKENS, CHANNELS, HEADS, HIDDEN = 197, 192, 3, 768
LINEAR_INPUT = OperandLayout(ndim=3, channel_axis=-1, group_axis=-1, instance_group_axis=-1, summed_axis=-1)
ATTENTION_MAP = OperandLayout(ndim=4, channel_axis=-1, head_axis=-3, instance_group_axis=-2)


@dataclass(frozen=True)
class Operand:
    """A tensor to quantize, and the product that takes it."""

    name: str
    tensor: Tensor
    layout: OperandLayout
    product: Callable[[Tensor], Tensor]
    configs: tuple[OperandConfig, ...]

    def make(self, config: OperandConfig) -> BaseQuantizer:
        """A quantizer between the tensor's bounds."""
        cls = quantizer_class(config.scheme)
        shape = cls.range_shape(config, self.layout, self.tensor.shape)
        shrink = torch.linspace(0.3, 1.0, torch.Size(shape).numel()).view(shape)
        return cls.from_range(config, self.layout, self.tensor.min() * shrink, self.tensor.max() * shrink)


def config(scheme: str, bits: int, **options: object) -> OperandConfig:
    """Shorthand for a configuration."""
    return OperandConfig.model_validate({"scheme": scheme, "bits": bits} | options)


def operands(batch: int) -> list[Operand]:
    """One of each kind of activation that linear layers and attention products of DeiT-T take."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    to_hidden, from_hidden = normal(HIDDEN, CHANNELS), normal(CHANNELS, HIDDEN)
    values = normal(batch, HEADS, TOKENS, CHANNELS // HEADS)
    scores = normal(batch, HEADS, TOKENS, TOKENS)
    logarithms = tuple(config("adalog", bits, log_base_numerator=20) for bits in (2, 3, 4, 5, 6, 8))
    return [
        Operand(
            f"linear input, {batch}×{TOKENS}×{CHANNELS}",
            normal(batch, TOKENS, CHANNELS),
            LINEAR_INPUT,
            lambda x: torch.nn.functional.linear(x, to_hidden),
            (
                config("uniform", 4),
                config("uniform", 4, granularity="channel"),
                config("uniform", 4, granularity="group", groups=8),
                config("power_of_two_factor", 8),
                config("instance_groups", 4, groups=8),
            ),
        ),
        Operand(
            f"GELU output, {batch}×{TOKENS}×{HIDDEN}",
            torch.nn.functional.gelu(normal(batch, TOKENS, HIDDEN)),
            LINEAR_INPUT,
            lambda x: torch.nn.functional.linear(x, from_hidden),
            (
                config("uniform", 4),
                config("twin_uniform", 4),
                config("twin_uniform_sum", 4),
                *logarithms,
                config("instance_groups", 4, groups=8),
                *(config("hadamard", 4, hadamard_block=block) for block in (32, 128, 256)),
            ),
        ),
        Operand(
            f"softmax output, {batch}×{HEADS}×{TOKENS}×{TOKENS}",
            torch.softmax(2 * scores, -1),
            ATTENTION_MAP,
            lambda x: x @ values,
            (
                config("uniform", 4),
                config("uniform", 4, granularity="head"),
                config("twin_uniform", 4),
                config("twin_uniform_sum", 4),
                config("log2", 4),
                config("log_sqrt2", 4),
                config("log_int_softmax", 4),
                *logarithms,
                config("instance_groups", 4, groups=8),
            ),
        ),
    ]


def least_milliseconds(function: Callable[[], object], repetitions: int) -> float:
    """The least time of several calls, the first one not counted."""
    function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def main() -> None:
    """Print a table for each operand."""
    parser = argparse.ArgumentParser(description="Time quantizers beside copies and products.")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    print(
        f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{arguments.threads} threads, Python {platform.python_version()}, torch {torch.__version__}"
    )
    for operand in operands(arguments.batch):
        x = operand.tensor
        out = torch.empty_like(x)
        copy = least_milliseconds(x.clone, arguments.repetitions)
        product = least_milliseconds(lambda: operand.product(x), arguments.repetitions)  # noqa: B023
        print(f"\n{operand.name}: copy {copy:.2f} ms, product {product:.2f} ms")
        print(f"{'quantizer':58}{'ms':>8}{'/ copy':>9}{'/ product':>11}{'into out, ms':>14}{'make, ms':>10}")
        for chosen in operand.configs:
            quantizer = operand.make(chosen)
            elapsed = least_milliseconds(lambda: quantizer(x), arguments.repetitions)  # noqa: B023
            into = least_milliseconds(lambda: quantizer.fake_quantize(x, out), arguments.repetitions)  # noqa: B023
            qparams = quantizer.qparams()
            made = least_milliseconds(lambda: type(quantizer)(chosen, operand.layout, qparams), 20)  # noqa: B023
            name = f"{quantizer.scheme}({quantizer.extra_repr()})"
            print(f"{name:58}{elapsed:8.2f}{elapsed / copy:9.1f}{elapsed / product:11.2f}{into:14.2f}{made:10.3f}")


if __name__ == "__main__":
    main()
