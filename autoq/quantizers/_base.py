"""The base class of all quantizers: what each computes, and what it says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from autoq.errors import CalibrationError
from autoq.quantizers._block_transform import block_rotation, rotate_blocks
from autoq.quantizers._label import SchemeLabel
from autoq.quantizers._overheads import Overheads
from autoq.quantizers.granularity import OperandLayout, count_groups, expand_groups
from autoq.recipe import OperandConfig

OutputSearch = Literal["scale_and_zero_point", "scale_and_log_base", "scale_and_shift_bits"]
IntegerOperation = Literal["layer_norm", "softmax"]


class BaseQuantizer(Overheads, nn.Module, ABC):
    """Replaces a tensor by the nearest values that ``config.bits`` bits can express.

    A subclass sets ``scheme``, ``qparam_names`` and ``config_fields`` and defines the abstract methods below; the other
    class attributes and :meth:`label` tell search, calibration, cost, report and export what else is special about the
    scheme. Nothing outside this package asks for a scheme by name.

    Parameters are float32 buffers and stay so when a model is cast to another type; arithmetic is in float32 (float64
    for float64 inputs) and results have the type of the input.

    NaN stays NaN in :meth:`forward`. As integers cannot hold it, :meth:`quantize` gives NaN the code of zero.

    A buffer that is given ``requires_grad_()`` is learned. Buffers must not be changed otherwise: make a new quantizer.

    Attributes:
        scheme: the name that recipes use.
        qparam_names: names of the parameters.
        config_fields: fields of the configuration that the scheme reads, besides ``scheme`` and ``bits``; one that
            reads ``granularity`` also reads ``groups`` where the granularity is ``group``.
        fitted_fields: fields of the configuration that calibration fits where they are None; each is a parameter too, a
            whole number of the same name.
        is_affine: whether values are (code − zero_point) · scale with parameters that are the same for every input; see
            :meth:`affine_qparams`.
        number_format: what codes are; hardware multiplies two operands of one format alone.
        output_search: the two parameters that the search by layer-output error (FPCS) combines; None: the scheme is
            solved by the error of the operand alone.
        integer_operation: the operation that runs in integers where a recipe has this scheme: the ``layer_norm`` whose
            input it quantizes, or the ``softmax`` whose output it quantizes; None: all operations stay as they are.
        config: how the operand is quantized.
        layout: where the operand's channels, heads and images lie.
    """

    scheme: ClassVar[str]
    qparam_names: ClassVar[tuple[str, ...]]
    config_fields: ClassVar[tuple[str, ...]]
    fitted_fields: ClassVar[tuple[str, ...]] = ()
    is_affine: ClassVar[bool] = False
    number_format: ClassVar[str] = "integer"
    output_search: ClassVar[OutputSearch | None] = None
    integer_operation: ClassVar[IntegerOperation | None] = None

    def __init__(self, config: OperandConfig, layout: OperandLayout, qparams: Mapping[str, Tensor]) -> None:
        """Check the parameters and keep copies of them as buffers.

        Args:
            config: how the operand is quantized; ``config.scheme`` must be this class's.
            layout: where the operand's channels, heads and images lie.
            qparams: a tensor for each name in ``qparam_names``.

        Raises:
            CalibrationError: a parameter is missing, unknown, not finite, misshapen or at odds with ``config``.
        """
        super().__init__()
        self.config = config
        self.layout = layout
        if config.scheme != self.scheme:
            raise CalibrationError(f"{type(self).__name__} was given the configuration of scheme {config.scheme!r}")
        if set(qparams) != set(self.qparam_names):
            raise CalibrationError(f"{self.scheme} needs parameters {self.qparam_names}, got {tuple(sorted(qparams))}")
        for name in self.qparam_names:
            value = qparams[name].detach().to(torch.float32, copy=True)
            if not torch.isfinite(value).all():
                raise CalibrationError(f"{self.scheme}: parameter {name!r} has NaN or infinite entries")
            self.register_buffer(name, value)
        self._prepare()

    def qparams(self) -> dict[str, Tensor]:
        """Return the parameters, detached, from which ``create_quantizer`` makes an identical quantizer."""
        return {name: getattr(self, name).detach() for name in self.qparam_names}

    @property
    def learnable(self) -> tuple[str, ...]:
        """Names of buffers of positive numbers that reconstruction may learn; none unless overridden."""
        return ()

    def learned(self) -> Self:
        """Make a quantizer of what the buffers hold now, with all that follows from it computed anew."""
        return type(self)(self.config, self.layout, self.qparams()).to(next(self.buffers()).device)

    @classmethod
    def canonical_config(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> OperandConfig:
        """Return the one way to write what ``config`` means for an operand.

        Fields that the scheme does not read get their defaults. ``head`` and ``group`` granularity become ``tensor``
        (for weights with one group, ``channel``) where the operand has no such axis, and there are no more groups than
        channels.

        Args:
            config: of this scheme.
            layout: where the operand's channels, heads and images lie.
            shape: of the operand.
        """
        values: dict[str, Any] = {name: getattr(config, name) for name in cls.config_fields}
        granularity = values.get("granularity")
        if granularity == "head" and layout.head_axis is None:
            values["granularity"] = "tensor"
        if granularity == "group":
            values["groups"] = count_groups(config, layout.group_axis, shape)
            if values["groups"] == 1:
                values["granularity"] = "channel" if layout.is_weight else "tensor"
        return OperandConfig(scheme=cls.scheme, bits=config.bits, **values)

    @classmethod
    def has_width(cls, bits: int) -> bool:  # noqa: ARG003
        """Tell whether codes can have a width; formats of one width override this."""
        return True

    @classmethod
    def label(cls, config: OperandConfig) -> SchemeLabel:  # noqa: ARG003
        """Return the texts that stand for a configuration in tables and pictures; the scheme's name if not overridden.

        Args:
            config: of this scheme.
        """
        return SchemeLabel(cls.scheme.replace("_", " "))

    def resolved_config(self) -> OperandConfig:
        """Return the configuration with the fields that calibration has fitted written out."""
        fitted = {name: int(getattr(self, name)) for name in self.fitted_fields}
        return self.config.model_copy(update=fitted)

    def affine_qparams(self) -> tuple[Tensor, Tensor] | None:
        """Return scale and zero point as other tools know them, or None if the scheme is not affine.

        A value is (code − zero_point) · scale; both are float32, detached, of one shape, with as many dimensions as the
        operand and of size one along axes that share them (with granularity ``group``, one entry a group).
        """
        return None

    @classmethod
    def basis_block(cls, config: OperandConfig, channels: int) -> int:  # noqa: ARG003
        """Return how many consecutive channels a Hadamard transform mixes before quantization; 1: none."""
        return 1

    @classmethod
    def basis(cls, config: OperandConfig, channels: int) -> Tensor | None:
        """Return B, of shape (channels, channels), orthogonal: codes are of the operand times B along its summed axis.

        Both operands of a site need the same one, as X Wᵀ = (X B)(W B)ᵀ. None: codes are of the operand itself.

        Args:
            config: of this scheme.
            channels: of the operand, along ``layout.summed_axis``.
        """
        block = cls.basis_block(config, channels)
        return None if block == 1 else rotate_blocks(torch.eye(channels), block_rotation(block), block, -1)

    @classmethod
    def in_basis(cls, config: OperandConfig, block: int) -> OperandConfig | None:
        """Return what ``config``, of this scheme, is in the basis of a ``basis_block``; None if there is no such."""
        return config if block == 1 else None

    def code_grid(self) -> tuple[Tensor, Tensor] | None:
        """Return scale and zero point in the basis of the codes, in the form of :meth:`affine_qparams`."""
        return self.affine_qparams()

    def to_basis(self, x: Tensor) -> Tensor:
        """Return the operand times :meth:`basis`, in its shape."""
        return x

    def from_basis(self, y: Tensor) -> Tensor:
        """Undo :meth:`to_basis`."""
        return y

    @classmethod
    @abstractmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:
        """Make a quantizer for values between two bounds, as minimum-maximum and percentile observers find them.

        Args:
            config: how the operand is quantized.
            layout: where the operand's channels, heads and images lie.
            lower: least values, of shape :meth:`range_shape`.
            upper: greatest values, of the same shape.
        """

    @abstractmethod
    def quantize(self, x: Tensor, groups: Tensor | None = None) -> Tensor:
        """Quantize ``x`` to integer codes (int32, from 0), in its shape.

        Args:
            x: the operand.
            groups: what :meth:`assign` returned for ``x``, to spare finding it again.
        """

    @abstractmethod
    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:
        """Return the values (float32) that codes stand for.

        Args:
            codes: what :meth:`quantize` returned.
            groups: what :meth:`assign` returned for the quantized tensor; needed where parameters are assigned at run
                time, of no effect elsewhere.
        """

    def assign(self, x: Tensor) -> Tensor | None:  # noqa: ARG002
        """Assign parameters to the entries of ``x`` at run time; None for schemes that assign none."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Quantize then dequantize (``fake_quantize``), with straight-through gradients where gradients are needed."""
        if torch.is_grad_enabled() and (x.requires_grad or self._is_learned()):
            return self._fake_quantize_with_gradient(x)
        return self.fake_quantize(x)

    @abstractmethod
    def fake_quantize(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Quantize then dequantize without gradients, as fast as possible.

        Args:
            x: the operand; not changed unless it is ``out`` too.
            out: contiguous memory of the shape and type of ``x``, which the result may be written to; fresh memory can
                cost more than the arithmetic. Use what is returned: half precision needs memory of its own.
        """

    @abstractmethod
    def _fake_quantize_with_gradient(self, x: Tensor) -> Tensor:
        """Compute the same values as :meth:`fake_quantize`; the gradient is one inside the range and zero outside."""

    def _prepare(self) -> None:
        """Check the parameters and derive what depends on them alone; runs again when a state is loaded."""

    def _is_learned(self) -> bool:
        return any(getattr(self, name).requires_grad for name in (*self.qparam_names, *self.learnable))

    def _require(self, condition: bool | Tensor, complaint: str) -> None:
        if not condition:
            raise CalibrationError(f"{self.scheme}: {complaint}")

    def _require_static_shape(self, *names: str) -> None:
        """Refuse parameters that vary along an axis that the granularity shares."""
        kept = self.layout.kept_axes(self.config)
        for name in names:
            shape = tuple(getattr(self, name).shape)
            shared = [size for axis, size in zip(range(-len(shape), 0), shape, strict=True) if axis not in kept]
            self._require(
                len(shape) == self.layout.ndim and all(size == 1 for size in shared),
                f"parameter {name!r} of shape {shape} does not fit granularity {self.config.granularity!r} of an "
                f"operand with {self.layout.ndim} dimensions; use layout.parameter_shape",
            )

    def _broadcast(self, parameter: Tensor, x: Tensor) -> Tensor:
        """Make a static parameter broadcastable against ``x``: groups are spread over their channels."""
        axis = self.layout.group_axis
        if self.config.granularity != "group" or axis is None or parameter.shape[axis] == 1:
            return parameter
        return expand_groups(parameter, x.shape[axis], axis)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move buffers but do not cast them: a scale in bfloat16 would be off by up to 0.4 %."""
        originals = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, original in originals.items():
            moved = self._buffers[name]
            if original is not None and moved is not None and moved.dtype != original.dtype:
                self._buffers[name] = original.to(moved.device)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._prepare()

    def extra_repr(self) -> str:
        """Return the configuration, as it stands in a recipe."""
        return ", ".join(f"{key}={value!r}" for key, value in self.config.to_json().items() if key != "scheme")


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which arithmetic on inputs of ``dtype`` is done."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def usable_out(x: Tensor, out: Tensor | None) -> Tensor | None:
    """Return ``out`` if arithmetic on ``x`` can be done in it, else None."""
    return out if out is not None and out.dtype == working_dtype(x.dtype) and out.is_contiguous() else None
