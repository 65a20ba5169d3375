"""Quantizers of one site's operands by the least squared error of the site's output."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from autoq.calibration.convolutions import Convolution, TransposedConvolution
from autoq.calibration.fpcs.layer_error import QuadraticError
from autoq.calibration.fpcs.layer_product import (
    Product,
    Sample,
    gram_factor,
    output_error,
    weighted_output_error,
)
from autoq.calibration.fpcs.parameter_search import ParameterSearch, is_searched
from autoq.calibration.observers import MseObserver
from autoq.calibration.recording import OperandRecorder, OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers import solve
from autoq.errors import CalibrationError
from autoq.graph.sites import Operand, Site
from autoq.quantizers import BaseQuantizer, quantizer_class
from autoq.recipe import OperandConfig, SiteConfig

_OWN_ERROR_ELEMENTS = 1 << 17
"""Values of an activation on which its own error is computed, where the output's error is not."""
_T = TypeVar("_T")


class SiteSolver:
    """Solves one site for many configurations, which share what depends on its operands alone.

    Attributes:
        searches: by operand, the search of its parameters.
    """

    def __init__(
        self,
        site: Site,
        operands: Mapping[str, Tensor],
        settings: CalibrationSettings,
        convolution: Convolution | TransposedConvolution | None = None,
        weight_parts: int = 1,
        output_weights: Tensor | None = None,
    ) -> None:
        """Search nothing yet.

        Args:
            site: the site.
            operands: full-precision operands: weights, and activations of all calibration images.
            settings: of the search, and of operands that have none here.
            convolution: geometry of a convolution site; without it, operands are solved on their own error.
            weight_parts: equal parts of the weight's output channels, which share a scale if the settings tie them.
            output_weights: of squared errors, in the shape of the site's output on all images; None: they count alike.
        """
        self._site = site
        self._full = {name: tensor.detach().float() for name, tensor in operands.items()}
        self._settings = replace(settings, observer=MseObserver.name)
        self._fpcs = settings.fpcs
        self._cache: dict[tuple[object, ...], object] = {}
        self.searches = {
            operand.name: ParameterSearch(operand, self._full[operand.name], self._settings)
            for operand in site.operands
            if operand.name in self._full
        }
        shapes = {name: tensor.shape for name, tensor in self._full.items()}
        self._product = Product.of(site, shapes, convolution, self._generator("positions"))
        self._weight_parts = weight_parts if self._fpcs.tied_rows else 1
        self._output_weights = output_weights

    @torch.no_grad()
    def solve(self, configs: SiteConfig) -> dict[str, BaseQuantizer]:
        """Solve the operands in ``configs``; the others stay in full precision.

        Raises:
            CalibrationError: an option does not fit its operand.
        """
        for name, config in configs.items():
            quantizer_class(config.scheme)
            if name not in self._full:
                raise CalibrationError(f"{self._site.name} has no operand {name!r}; it has {', '.join(self._full)}")
        solved = {
            name: self._alone(name, config) for name, config in configs.items() if not self._is_joint(name, config)
        }
        joint = [operand.name for operand in self._site.operands if operand.name in configs.keys() - solved.keys()]
        if len(joint) == 2 and self._fpcs.rounds:
            solved |= self._alternate(joint[0], joint[1], configs)
        else:
            for name in joint:
                other = next(each for each in self._full if each != name)
                given = solved.get(other) if self._fpcs.rounds else None
                solved[name] = self._search(name, configs[name], other, given, None)
        return {name: solved[name] for name in configs}

    def _alternate(self, first: str, second: str, configs: SiteConfig) -> dict[str, BaseQuantizer]:
        """Search the second operand (a weight) alone, then ``rounds`` times each given the other."""
        best, order = self._start(first, second, configs)
        for _ in range(self._fpcs.rounds):
            changed = False
            for name, other in order:
                before = best.get(name)
                best[name] = self._search(name, configs[name], other, best[other], before)
                changed = before is None or not _is_same(before, best[name])
                if not changed:
                    break
            if not changed:
                break
        return best

    def _start(
        self, first: str, second: str, configs: SiteConfig
    ) -> tuple[dict[str, BaseQuantizer], tuple[tuple[str, str], tuple[str, str]]]:
        """Search what the rounds begin with, and say in which order (operand, other operand) each goes on."""
        activations_first = ((first, second), (second, first))
        if self._fpcs.start == "weights":
            key = ("alone", second, configs[second])
            alone = self._kept(key, lambda: self._search(second, configs[second], first, None, None))
            return {second: alone}, activations_first
        is_weight = self._site.operand(second).is_weight
        if not is_weight or self._fpcs.start == "observed":
            observed = {name: self.searches[name].observed(configs[name]) for name in (first, second)}
            return (observed, activations_first[::-1]) if is_weight else ({second: observed[second]}, activations_first)
        best = {second: self._own_search(second, configs[second])}
        if quantizer_class(configs[first].scheme).output_search != "scale_and_zero_point":
            return best, activations_first
        return best | {first: self._own_search(first, configs[first])}, activations_first[::-1]

    def _own_search(self, name: str, config: OperandConfig) -> BaseQuantizer:
        """Search an operand for its own error."""
        return self._kept(
            ("own", name, config), lambda: self.searches[name].minimise(config, self._own(name, config), None)
        )

    def _is_joint(self, name: str, config: OperandConfig) -> bool:
        """Tell whether the operand is solved by the output's error."""
        if self._product is None or not is_searched(config):
            return False
        return self._product.sharing(self._site.operand(name), config) is not None

    def _alone(self, name: str, config: OperandConfig) -> BaseQuantizer:
        """Solve an operand by its own error: through FPCS, or by the scheme's own solver."""
        operand = self._site.operand(name)
        if is_searched(config):
            return self._own_search(name, config)
        data = self._kept(("sample", name), lambda: self._sample(operand))
        return self._kept(("own", name, config), lambda: solve(operand, config, data, self._settings))

    def _sample(self, operand: Operand) -> OperandSample | Tensor:
        full = self._full[operand.name]
        if operand.is_weight:
            return full
        recorder = OperandRecorder(operand, self._settings, f"{self._site.name}:{operand.name}")
        recorder(full)
        return recorder.sample()

    def _own(self, name: str, config: OperandConfig) -> QuadraticError:
        """Return an operand's own squared error, on a sample of an activation's values."""
        operand, full = self._site.operand(name), self._full[name]
        kept = tuple(axis % full.ndim for axis in operand.layout.kept_axes(config))
        others = [axis for axis in range(full.ndim) if axis not in kept]
        rows = full.permute(*kept, *others).reshape(math.prod(full.shape[axis] for axis in kept), -1)
        count = max(1, _OWN_ERROR_ELEMENTS // len(rows))
        if not operand.is_weight and rows.shape[1] > count:
            generator = self._generator(name)
            rows = rows[:, torch.randint(rows.shape[1], (count,), generator=generator).to(rows.device)]
        return QuadraticError(rows[:, None, None, :].contiguous())

    def _search(
        self, name: str, config: OperandConfig, other: str, given: BaseQuantizer | None, incumbent: BaseQuantizer | None
    ) -> BaseQuantizer:
        """Search one operand's quantizer, given the other's (None: full precision)."""
        searched = quantizer_class(config.scheme).output_search
        if self._fpcs.twin_scales == "published" and searched == "scale_and_shift_bits":
            given = None if self._site.operand(name).producer == "softmax" else given
        error = self.error(name, config, other, given)
        return self.searches[name].minimise(config, error, incumbent)

    @torch.no_grad()
    def error(self, name: str, config: OperandConfig, other: str, given: BaseQuantizer | None) -> QuadraticError:
        """Return the squared output error of one operand's quantization, given the other operand's.

        Args:
            name: the operand.
            config: its granularity decides which vectors share parameters.
            other: the other operand.
            given: its quantizer; None: it is in full precision.

        Raises:
            CalibrationError: the output's error cannot be computed for this operand.
        """
        product, operand = self._product, self._site.operand(name)
        sharing = None if product is None else product.sharing(operand, config)
        if product is None or sharing is None:
            raise CalibrationError(f"{self._site.name}:{name} at {config.to_json()} is searched by its own error only")

        def sampled() -> tuple[Sample, Tensor, Tensor | None]:
            vectors = product.vectors(name, self._full[name])
            sample = Sample()
            if not operand.is_weight:
                images = len(self._full[name])
                sample = Sample.choose(vectors.shape, self._fpcs.tokens, sharing, images, self._generator(name))
            mask = product.padding_mask(name, self._full[name])
            return sample, sample.of(vectors), None if mask is None else sample.of(mask)

        sample, values, mask = self._kept(("vectors", name, sharing == "vector"), sampled)
        full = sample.of_outer(product.vectors(other, self._full[other]))
        quantized = full if given is None else sample.of_outer(product.vectors(other, given(self._full[other])))
        weights = None if self._output_weights is None else product.outputs(name, self._output_weights)
        if weights is not None:
            weights = sample.of(weights)
            error = weighted_output_error(values, sharing, weights, quantized, None if given is None else full, mask)
        elif given is None:
            factor = self._kept(("factor", name, sharing == "vector"), lambda: gram_factor(full))
            error = output_error(values, sharing, factor, full, None, mask)
        else:
            error = output_error(values, sharing, gram_factor(quantized), quantized, full, mask)
        parts = self._weight_parts if operand.is_weight and sharing == "vector" else 1
        return error if parts == 1 else error.tied(parts)

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{self._settings.seed} {self._site.name}:{name}".encode()))

    def _kept(self, key: tuple[object, ...], make: Callable[[], _T]) -> _T:
        if key not in self._cache:
            self._cache[key] = make()
        return cast(_T, self._cache[key])


def _is_same(one: BaseQuantizer, other: BaseQuantizer) -> bool:
    return all(torch.equal(value, other.qparams()[name]) for name, value in one.qparams().items())
