"""What the published methods have in common: which operand gets which quantizer, and how it is calibrated."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

from autoq.calibration import CalibrationSettings
from autoq.calibration.transforms.reparameterization import rewritable_norms
from autoq.errors import MethodError
from autoq.graph.canonical import canonical
from autoq.graph.nodes import TRANSPOSED_LAYERS
from autoq.graph.sites import Operand, Site
from autoq.graph.trace import TracedModel
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import IMAGE_BITS, OperandConfig, Overflow, SiteConfig
from autoq.reconstruction.mlp_training import MlpSettings
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.tasks import BaseTask


@dataclass(frozen=True)
class MethodOptions:
    """What a person may change about a method; None leaves the method's default.

    Attributes:
        protocol: ``autoq`` (the default), with strict 2^bits codes and our improvements, or ``published``, as in the
            authors' code; what differs is in :attr:`BaseMethod.differences`.
        observer: how ranges of activations are observed.
        groups: groups of instance-aware group quantization.
        ptf: whether LayerNorm runs in integers, on inputs with power-of-two factors.
        lis: whether softmax runs in integers, to base-2 logarithms.
        iterations: of the reconstruction of each block and each MLP.
        importance: by what squared errors of a block's output are weighted.
        mlp: whether GELU becomes ReLU, and MLPs are trained to make up for it.
        bfloat16: whether blocks are trained in bfloat16.
        on_disk: whether activations between blocks are kept in temporary files rather than in memory.
    """

    protocol: str | None = None
    observer: str | None = None
    groups: int | None = None
    ptf: bool | None = None
    lis: bool | None = None
    iterations: int | None = None
    importance: str | None = None
    mlp: bool | None = None
    bfloat16: bool | None = None
    on_disk: bool | None = None

    def given(self) -> dict[str, object]:
        """Return the options that are set, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


_CALIBRATED_ON = 128
"""Images that quantizers are calibrated on, where blocks are trained on more."""
EVERYTHING = 1 << 40
"""A number of values or vectors beyond those of any operand: none are left out."""
PROTOCOLS = ("autoq", "published")
"""How methods that have both choose parameters."""


@dataclass(frozen=True)
class Difference:
    """One thing that the protocols of a method do differently.

    Attributes:
        subject: what is chosen.
        published: how the authors' code chooses it.
        autoq: how it is chosen by default.
        here: how ``published`` chooses it here, where that is not wholly the authors' way; else empty.
    """

    subject: str
    published: str
    autoq: str
    here: str = ""


class BaseMethod(ABC):
    """A published method at uniform bits.

    Subclasses override the kinds of operands that they treat specially; what is here is plain rounding.

    Attributes:
        options: what was changed about it.
        finds_objects: whether it is for detectors, which have a protocol of their own.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    """The paper."""
    images: ClassVar[int] = 32
    """Calibration images of the paper's protocol."""
    detection_images: ClassVar[int | None] = None
    """Images of the protocol for detectors, where the paper or its code has one; None: :attr:`images`."""
    differences: ClassVar[tuple[Difference, ...]] = ()
    """Between its protocols; empty: it has one."""
    publishes_float_image: ClassVar[bool] = False
    """Whether the model's input stays in floating point as published, and from 8 bits on that of any convolution."""
    publishes_float_upsampling: ClassVar[bool] = False
    """Whether transposed convolutions stay in floating point as published."""
    taken_options: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    """Names of ``MethodOptions`` that it has, and their values; an empty tuple takes any."""
    reconstruction: ClassVar[ReconstructionSettings | None] = None
    """How it reconstructs blocks on its images; None: it calibrates only."""
    mlp_reconstruction: ClassVar[MlpSettings | None] = None
    """How it trains MLPs with ReLU in place of GELU before that; None: it leaves the model as it is."""

    def __init__(self, options: MethodOptions | None = None) -> None:
        """Check the options.

        Raises:
            MethodError: the method has no such option, or it cannot have that value.
        """
        self.options = options or MethodOptions()
        self.finds_objects = False
        taken = self._options_taken()
        for name, value in self.options.given().items():
            if name not in taken:
                raise MethodError(f"{self.name} has no option {_flag(name)}; {self._describe_options()}")
            allowed = taken[name]
            if allowed and value not in allowed:
                raise MethodError(f"{self.name}: {name} {value!r} is not one of {', '.join(map(str, allowed))}")

    @property
    def is_published(self) -> bool:
        """Whether parameters are chosen as in the authors' code."""
        return self.options.protocol == "published"

    @property
    def overflow(self) -> Overflow:
        """Where values below a logarithm's last level go: to zero, a (2^bits + 1)-th level, as published; or a code."""
        return "extra_zero" if self.is_published else "zero_code"

    def for_task(self, task: BaseTask) -> Self:
        """Return the method as it is for models of a task."""
        changed = copy(self)
        changed.finds_objects = task.labels in ("objects", "masks")
        return changed

    @property
    def has_detection_protocol(self) -> bool:
        """Whether it does what was published for detectors."""
        return self.is_published and self.finds_objects and self.detection_images is not None

    @property
    def calibration_images(self) -> int:
        """How many images it calibrates on, and trains: as in its paper or, where that is asked for, for detectors."""
        return self.detection_images or self.images if self.has_detection_protocol else self.images

    @property
    def starting_images(self) -> int:
        """How many of them quantizers are calibrated on, where blocks are trained after that."""
        return _CALIBRATED_ON

    def label(self, bits: BitWidths) -> str:
        """Return what recipes are named by: ``adalog w4a4``, ``adalog w4a4 (published)``."""
        return f"{self.name} {bits} (published)" if self.is_published else f"{self.name} {bits}"

    def settings(self, seed: int) -> CalibrationSettings:
        """Return how quantizer parameters are chosen."""
        return CalibrationSettings(observer="min_max", seed=seed)

    def reparameterized(self, traced: TracedModel, bits: BitWidths) -> dict[str, int]:  # noqa: ARG002
        """Return the LayerNorm sites that are rescaled channel by channel, and the bits of the quantizers they feed."""
        return {}

    def sites(self, traced: TracedModel, bits: BitWidths) -> dict[str, SiteConfig]:
        """Return the configuration of every operand of a model, by site."""
        layers = (site.name for site in traced.sites if site.macs and any(each.is_weight for each in site.operands))
        first = next(layers, None)
        configured: dict[str, SiteConfig] = {}
        for site in traced.sites:
            if self.is_published and self.publishes_float_upsampling and site.op in TRANSPOSED_LAYERS:
                continue
            chosen: SiteConfig = {}
            for operand in site.operands:
                is_image = site.name == first and not operand.is_weight
                config = self.image(bits) if is_image else self._operand(site, operand, bits)
                if config is not None:
                    chosen[operand.name] = canonical(config, operand)
            if chosen:
                configured[site.name] = chosen
        return configured

    def reconstruction_settings(self, seed: int) -> ReconstructionSettings | None:
        """Return how blocks are reconstructed, if they are."""
        if self.reconstruction is None:
            return None
        names = ("iterations", "importance", "bfloat16")
        changed = {name: value for name, value in self.options.given().items() if name in names}
        return replace(self.reconstruction, seed=seed, **changed)  # type: ignore[arg-type]

    def mlp_settings(self, seed: int, bits: BitWidths) -> MlpSettings | None:  # noqa: ARG002
        """Return how MLPs with ReLU are trained for quantization at some bits, if they are."""
        if self.mlp_reconstruction is None or self.options.mlp is False:
            return None
        iterations = self.options.iterations or self.mlp_reconstruction.iterations
        return replace(self.mlp_reconstruction, seed=seed, iterations=iterations)

    def rescaled_norms(self, traced: TracedModel, bits: BitWidths, *, equal_widths: bool = False) -> dict[str, int]:
        """Return RepQ-ViT's LayerNorms, as :meth:`reparameterized` does.

        Args:
            traced: the model.
            bits: uniform widths.
            equal_widths: as published there are none unless weights and activations have the same bits.
        """
        if equal_widths and self.is_published and bits.weights != bits.activations:
            return {}
        return dict.fromkeys(rewritable_norms(traced), bits.activations)

    def image(self, bits: BitWidths) -> OperandConfig | None:
        """Configure the model's input: one range at 8 bits or more; None: it stays in floating point."""
        if self.is_published and self.publishes_float_image:
            return None
        return OperandConfig(scheme="uniform", bits=max(IMAGE_BITS, bits.activations))

    def weight(self, bits: int) -> OperandConfig:
        """Configure weights: one scale for each output channel."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel", symmetric=True)

    def convolution_weight(self, bits: int) -> OperandConfig:
        """Configure weights of convolutions, the patch embedding's for one; like others unless overridden."""
        return self.weight(bits)

    def layer_input(self, bits: int) -> OperandConfig:
        """Configure inputs of linear layers and convolutions: one range."""
        return OperandConfig(scheme="uniform", bits=bits)

    def gelu_output(self, bits: int) -> OperandConfig:
        """Configure inputs of layers after GELU; like other inputs unless overridden."""
        return self.layer_input(bits)

    def attention_operand(self, bits: int) -> OperandConfig:
        """Configure queries, keys and values: one range."""
        return OperandConfig(scheme="uniform", bits=bits)

    def attention_map(self, bits: int) -> OperandConfig:
        """Configure softmax outputs."""
        return OperandConfig(scheme="uniform", bits=bits)

    def norm_input(self, bits: int) -> OperandConfig | None:  # noqa: ARG002
        """Configure inputs of LayerNorm; in floating point unless overridden."""
        return None

    def softmax_input(self, bits: int) -> OperandConfig | None:  # noqa: ARG002
        """Configure attention scores; in floating point unless overridden."""
        return None

    def _operand(self, site: Site, operand: Operand, bits: BitWidths) -> OperandConfig | None:
        if site.op == "layer_norm":
            return self.norm_input(bits.activations)
        if site.op == "softmax":
            return self.softmax_input(bits.activations)
        if site.is_optional:
            return None
        if operand.is_weight:
            return (self.weight if site.op == "linear" else self.convolution_weight)(bits.weights)
        if operand.producer == "softmax":
            return self.attention_map(bits.attention)
        if operand.producer == "gelu":
            return self.gelu_output(bits.activations)
        if operand.name == "input":
            is_float = self.is_published and self.publishes_float_image and bits.activations >= IMAGE_BITS
            return None if is_float and site.op != "linear" else self.layer_input(bits.activations)
        return self.attention_operand(bits.activations)

    def _options_taken(self) -> dict[str, tuple[object, ...]]:
        return dict(self.taken_options) | ({"protocol": PROTOCOLS} if self.differences else {})

    def _describe_options(self) -> str:
        taken = ", ".join(map(_flag, self._options_taken()))
        return f"it has {taken}" if taken else "it has none"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
