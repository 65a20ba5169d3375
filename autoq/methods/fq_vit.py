"""FQ-ViT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from autoq.calibration import CalibrationSettings
from autoq.graph.canonical import canonical
from autoq.graph.nodes import is_move
from autoq.graph.trace import TracedModel
from autoq.methods._base import EVERYTHING, BaseMethod, Difference
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import OperandConfig, SiteConfig

_BATCH_IMAGES = 100
"""Of the authors' loader."""


class FqVit(BaseMethod):
    """LayerNorm and softmax are quantized too: power-of-two factors and Log-Int-Softmax.

    Without them (``ptf``, ``lis`` off), LayerNorm inputs and attention maps have one uniform range, as in the paper's
    baselines.
    """

    name: ClassVar[str] = "fq-vit"
    source: ClassVar[str] = "Lin et al., FQ-ViT, IJCAI 2022"
    images: ClassVar[int] = 1000
    differences: ClassVar[tuple[Difference, ...]] = (
        Difference("percentile", "99.999", "99.99"),
        Difference("lowest level of Log-Int-Softmax", "zero, a (2^b + 1)-th level", "2^b codes"),
        Difference(
            "step of the integer exponential",
            "that of the scores: at 0.6 a probability of 7e-5 becomes 4e-3",
            "split until it is below 2^-6",
        ),
        Difference("weights", "least and greatest value, whatever the observer", "by the observer"),
        Difference(
            "LayerNorm inputs with PTF",
            "least and greatest value, whatever the observer; factors on all values of the last 100 images",
            "by the observer; factors on a sample of values of 32 images",
        ),
        Difference(
            "ranges by squared error (omse)", "all values of the last 100 images", "a sample of values of 32 images"
        ),
        Difference("batches, which moving averages depend on", "100 images", "as many as memory allows"),
        Difference("queries, keys, values", "one range for all three: that of the layer's output", "a range each"),
        Difference(
            "outputs of projections and MLPs, patch and position embedding, residual sums",
            "as activations, residual sums with power-of-two factors; the patch embedding once by itself and once with "
            "the class token",
            "floating point",
            here="likewise; the patch embedding once, with the class token: the same where that is within its range",
        ),
        Difference("output of the classifier", "as activations", "floating point"),
    )
    taken_options: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "observer": ("min_max", "ema", "percentile", "omse"),
        "ptf": (),
        "lis": (),
    }

    def settings(self, seed: int) -> CalibrationSettings:
        """Take minimum and maximum unless another of the paper's observers is asked for."""
        settings = CalibrationSettings(observer=self.options.observer or "min_max", seed=seed)
        if not self.is_published:
            return settings
        return replace(
            settings,
            percentile=99.999,
            weight_observer="min_max",
            factor_observer="min_max",
            batch_images=_BATCH_IMAGES,
            sample_last_batch=True,
            sample_elements=EVERYTHING,
            shares_ranges=True,
        )

    def sites(self, traced: TracedModel, bits: BitWidths) -> dict[str, SiteConfig]:
        """Quantize summands and outputs as published: what LayerNorms read, as they read it, all else uniformly."""
        found = super().sites(traced, bits)
        quantized = {"add": self.quantizes_sums, "output": self.quantizes_outputs}
        chosen = [(site, operand) for site, operand in traced.operands() if quantized.get(site.op)]
        if not chosen:
            return found
        streams = {_value(traced, site.name, "input") for site in traced.sites if site.op == "layer_norm"}
        for site, operand in chosen:
            is_stream = _value(traced, site.name, operand.name) in streams
            config = (self.norm_input if is_stream else self.layer_input)(bits.activations)
            found.setdefault(site.name, {})[operand.name] = canonical(config, operand)
        return found

    @property
    def quantizes_sums(self) -> bool:
        """Whether what residual sums add is quantized."""
        return self.is_published

    @property
    def quantizes_outputs(self) -> bool:
        """Whether what the model returns is quantized."""
        return self.is_published

    def attention_map(self, bits: int) -> OperandConfig:
        """Quantize to powers of two, from integers (paper, §3.4)."""
        if self.options.lis is False:
            return OperandConfig(scheme="uniform", bits=bits)
        return OperandConfig(scheme="log_int_softmax", bits=bits, overflow=self.overflow)

    def norm_input(self, bits: int) -> OperandConfig:
        """Scale one range by a power of two for each channel (paper, §3.3)."""
        scheme = "uniform" if self.options.ptf is False else "power_of_two_factor"
        return OperandConfig(scheme=scheme, bits=bits)

    def softmax_input(self, bits: int) -> OperandConfig:
        """Use one range for all attention scores."""
        return OperandConfig(scheme="uniform", bits=bits)


def _value(traced: TracedModel, site: str, operand: str) -> str:
    """Name the node whose values an operand has, moved at most."""
    node = traced.edges[site, operand].source(traced.graph_module)
    while is_move(node):
        node = node.args[0]  # type: ignore[assignment]
    return node.name
