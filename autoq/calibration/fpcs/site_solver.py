"""Quantizers of one site's operands by the least squared error of the site's output."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from autoq.calibration.capture import OperandRecorder, OperandSample
from autoq.calibration.fpcs.layer_error import QuadraticError, log_loss, uniform_loss
from autoq.calibration.fpcs.layer_product import Convolution, Product, Sample, gram_factor, output_error
from autoq.calibration.fpcs.search import (
    Grid,
    Loss,
    Pair,
    base_grid,
    log_grid,
    progressive_search,
    uniform_grid,
)
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers.operand_solver import solve
from autoq.errors import CalibrationError
from autoq.graph.sites import Operand, Site
from autoq.quantizers import BaseQuantizer, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig, SiteConfig

_LOGARITHMIC = ("adalog", "log2", "log_sqrt2")
_OWN_ERROR_ELEMENTS = 1 << 17
"""Values of an activation on which its own error is computed, where the output's error is not."""
_T = TypeVar("_T")


class SiteSolver:
    """Solves one site for many configurations, which share what depends on its operands alone."""

    def __init__(
        self,
        site: Site,
        operands: Mapping[str, Tensor],
        settings: CalibrationSettings,
        convolution: Convolution | None = None,
    ) -> None:
        """Nothing is searched yet.

        Args:
            site: the site.
            operands: full-precision operands: weights, and activations of all calibration images.
            settings: of the search, and of operands that have none here.
            convolution: geometry of a convolution site; without it, operands are solved on their own error.
        """
        self._site = site
        self._full = {name: tensor.detach().float() for name, tensor in operands.items()}
        self._settings = replace(settings, observer="mse")
        self._fpcs = settings.fpcs
        self._cache: dict[tuple[object, ...], object] = {}
        shapes = {name: tensor.shape for name, tensor in self._full.items()}
        self._product = Product.of(site, shapes, convolution, self._generator("positions"))

    @torch.no_grad()
    def solve(self, configs: SiteConfig) -> dict[str, BaseQuantizer]:
        """Quantizers of the operands in ``configs``; the others stay in full precision.

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
        """The second operand (a weight) alone, then ``rounds`` times each given the other."""
        key = ("alone", second, configs[second])
        best = {second: self._kept(key, lambda: self._search(second, configs[second], first, None, None))}
        for _ in range(self._fpcs.rounds):
            changed = False
            for name, other in ((first, second), (second, first)):
                before = best.get(name)
                best[name] = self._search(name, configs[name], other, best[other], before)
                changed = before is None or not _is_same(before, best[name])
                if not changed:
                    break
            if not changed:
                break
        return best

    def _is_joint(self, name: str, config: OperandConfig) -> bool:
        """Whether the operand is solved by the output's error."""
        if self._product is None or not _is_searched(config):
            return False
        return self._product.sharing(self._site.operand(name), config) is not None

    def _alone(self, name: str, config: OperandConfig) -> BaseQuantizer:
        """By the operand's own error: through FPCS, or by the scheme's own solver."""
        operand = self._site.operand(name)
        if _is_searched(config):
            return self._kept(
                ("own", name, config), lambda: self._minimise(operand, config, self._own(name, config), None)
            )
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
        """An operand's own squared error, on a sample of an activation's values."""
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
        """One operand's quantizer, given the other's (None: full precision)."""
        error = self.error(name, config, other, given)
        return self._minimise(self._site.operand(name), config, error, incumbent)

    @torch.no_grad()
    def error(self, name: str, config: OperandConfig, other: str, given: BaseQuantizer | None) -> QuadraticError:
        """The squared output error of one operand's quantization, given the other operand's.

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
        if given is None:
            factor = self._kept(("factor", name, sharing == "vector"), lambda: gram_factor(full))
            return output_error(values, sharing, factor, full, None, mask)
        quantized = sample.of_outer(product.vectors(other, given(self._full[other])))
        return output_error(values, sharing, gram_factor(quantized), quantized, full, mask)

    def _minimise(
        self, operand: Operand, config: OperandConfig, error: QuadraticError, incumbent: BaseQuantizer | None
    ) -> BaseQuantizer:
        """Search the parameters; never worse than the incumbent, at first the observed range."""
        if config.scheme in _LOGARITHMIC:
            return self._minimise_log(operand, config, error, incumbent)
        observed = self._observed(operand, config)
        grid, start, loss, screen = self.uniform_problem(operand, config, error, incumbent or observed)
        fpcs = self._fpcs
        scale, zero_point, _ = progressive_search(loss, grid, fpcs.kept, fpcs.steps, screen=screen, incumbent=start)
        shape = observed.qparams()["scale"].shape
        qparams = {"scale": scale.reshape(shape), "zero_point": zero_point.reshape(shape)}
        return create_quantizer(config, operand.layout, qparams)

    def uniform_problem(
        self, operand: Operand, config: OperandConfig, error: QuadraticError, incumbent: BaseQuantizer
    ) -> tuple[Grid, Pair, Loss, Loss | None]:
        """What is searched for a uniform quantizer: first grid, incumbent, loss and the loss that screens."""
        low, high = self._kept(("quantiles", operand.name, config.granularity), lambda: self._quantiles(error.values))
        least, most = self._range(operand, config)
        rows = len(error.values)
        grid = uniform_grid(
            (low, least.reshape(rows)), (high, most.reshape(rows)), config.bits, self._fpcs, symmetric=config.symmetric
        )
        qparams = incumbent.qparams()
        start = (qparams["scale"].reshape(rows, 1), qparams["zero_point"].reshape(rows, 1))
        binary = config.symmetric and config.bits == 1
        screened = error.screened(self._fpcs.screening, self._settings.seed)
        screen = None if screened is None else uniform_loss(screened, config.bits, binary=binary)
        return grid, start, uniform_loss(error, config.bits, binary=binary), screen

    def _minimise_log(
        self, operand: Operand, config: OperandConfig, error: QuadraticError, incumbent: BaseQuantizer | None
    ) -> BaseQuantizer:
        """Base and scale; the scale of a softmax output is one (AdaLog, §3.2), but for RepQ-ViT's base √2."""
        observed = self._observed(operand, config).qparams()
        shift, rows, device = observed["shift"].flatten()[0], len(error.values), error.values.device
        has_unit_scale = operand.producer == "softmax" and config.scheme != "log_sqrt2"
        reference = torch.ones_like(observed["scale"]) if has_unit_scale else observed["scale"]
        reference = reference.reshape(rows, 1)
        loss, screen = (
            None if form is None else log_loss(form, config, shift, reference)
            for form in (error, error.screened(self._fpcs.screening, self._settings.seed))
        )
        assert loss is not None  # noqa: S101 - only the second may be None
        fpcs, base = self._fpcs, config.log_base_numerator
        if config.scheme != "adalog":
            base = base or 10  # not used
        kept, steps = fpcs.kept if base else fpcs.log_kept, fpcs.steps
        start = None
        if has_unit_scale:
            steps = 1
            grid = base_grid(1.0, device) if base is None else log_grid(1.0, 1.0, base, fpcs, device)
        else:
            narrow = self._kept(("positive", operand.name), lambda: _positive_quantile(error.values, fpcs.quantile))
            grid = log_grid(float((narrow + shift) / reference.max()), 1.0, base, fpcs, device)
            qparams = observed if incumbent is None else incumbent.qparams()
            numerator = qparams.get("log_base_numerator", torch.tensor(float(base or 10))).to(device)
            start = (numerator.reshape(1, 1), qparams["scale"].reshape(rows, 1)[:1] / reference[:1])
        if has_unit_scale and base is not None:
            solved, relative = float(base), 1.0
        else:
            found = progressive_search(loss, grid, kept, steps, screen=screen, incumbent=start)
            solved, relative = float(found[0]), float(found[1])
        qparams = observed | {"scale": (reference * relative).reshape(observed["scale"].shape)}
        if config.scheme == "adalog":
            qparams["log_base_numerator"] = torch.tensor(solved)
        return create_quantizer(config, operand.layout, qparams)

    def _observed(self, operand: Operand, config: OperandConfig) -> BaseQuantizer:
        """The quantizer of the observed range."""
        return quantizer_class(config.scheme).from_range(config, operand.layout, *self._range(operand, config))

    def _range(self, operand: Operand, config: OperandConfig) -> Pair:
        """Least and greatest value, in the shape of the parameters."""

        def observe() -> Pair:
            full = self._full[operand.name]
            kept = {axis % full.ndim for axis in operand.layout.kept_axes(config)}
            others = [axis for axis in range(full.ndim) if axis not in kept]
            return full.amin(others, keepdim=True), full.amax(others, keepdim=True)

        return self._kept(("range", operand.name, config.granularity), observe)

    def _quantiles(self, values: Tensor) -> Pair:
        """Lower and upper quantile of each row, of shape (R,)."""
        flat = values.flatten(1)
        rank = max(1, min(flat.shape[1], math.ceil(self._fpcs.quantile * flat.shape[1])))
        return flat.kthvalue(flat.shape[1] - rank + 1, dim=1).values, flat.kthvalue(rank, dim=1).values

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{self._settings.seed} {self._site.name}:{name}".encode()))

    def _kept(self, key: tuple[object, ...], make: Callable[[], _T]) -> _T:
        if key not in self._cache:
            self._cache[key] = make()
        return cast(_T, self._cache[key])


def _is_searched(config: OperandConfig) -> bool:
    return config.scheme in ("uniform", *_LOGARITHMIC) and config.granularity in ("tensor", "channel", "head")


def _is_same(one: BaseQuantizer, other: BaseQuantizer) -> bool:
    return all(torch.equal(value, other.qparams()[name]) for name, value in one.qparams().items())


def _positive_quantile(values: Tensor, quantile: float) -> Tensor:
    """Quantile of the positive values, 0 if there are none."""
    positive = values[values > 0]
    if not len(positive):
        return torch.zeros((), device=values.device)
    return positive.kthvalue(max(1, math.ceil(quantile * len(positive)))).values
