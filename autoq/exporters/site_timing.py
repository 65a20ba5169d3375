"""Measure a latency table: every site alone, in floating point and in integers of 8 bits, and the model around them."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from autoq.cost.latency import LatencyRow, LatencyTable
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.exporters._base import ExportSource
from autoq.exporters.affine_codes import SAFE_WEIGHT_BITS
from autoq.exporters.onnx_qcdq import OnnxExporter
from autoq.exporters.site_models import SiteModel
from autoq.exporters.timing import Opener, Timing, time_in_pairs
from autoq.graph.sites import Site
from autoq.graph.trace import TracedModel

_WEIGHT_BITS = (SAFE_WEIGHT_BITS, 8)
"""The widest of each container, whose kernels differ in speed."""
_SCHEME = "uniform"
_FLOAT, _WHOLE = "float", "whole model"


def measure_table(
    traced: TracedModel,
    source: ExportSource,
    open_file: Opener,
    description: str,
    *,
    batch: int,
    threads: int,
    rounds: int,
    progress: Progress = ignore,
) -> LatencyTable:
    """Time every site that multiplies, and the model in floating point, as ONNX.

    Sites of one shape are timed once, side by side with the whole model: what slows the machine down slows both, and
    the times of sites are shares of the model's. What the sites do not account for in floating point is the table's
    rest. Integers are rows of scheme ``uniform``: what has another scheme is multiplied in floating point.

    Args:
        traced: the model.
        source: the model without any quantizer; its images are one batch.
        open_file: opens a file in the runtime.
        description: of the table.
        batch: images at a time.
        threads: that the runtime may use.
        rounds: of each measurement; in each, every kind of a site runs once.
        progress: told how many shapes of sites are measured.
    """
    sites = [site for site in traced.sites if site.macs]
    models = {site.name: SiteModel.of(traced, site, batch) for site in sites}
    distinct = list(dict.fromkeys(models.values()))
    timed: dict[SiteModel, dict[str, Timing]] = {}
    progress(PhaseStarted("timing", len(distinct)))
    with tempfile.TemporaryDirectory(prefix="autoq-latency-") as folder:
        whole = Path(folder) / "whole.onnx"
        OnnxExporter().write(source, whole)
        images = source.images[:1].repeat(batch, *[1] * (source.images.ndim - 1))
        run_whole = open_file(whole, [images], threads)
        for model in distinct:
            kinds = _open_kinds(model, Path(folder), open_file, threads)
            timed[model] = time_in_pairs({_WHOLE: run_whole, **kinds}, rounds)
            progress(PhaseAdvanced("timing", len(timed)))
    total = statistics.median(timings[_WHOLE].milliseconds for timings in timed.values()) / batch
    shares = {model: _shares(timings) for model, timings in timed.items()}
    rows = [row for site in sites for row in _rows(site, shares[models[site.name]], total)]
    rest = total * (1 - sum(shares[models[site.name]][_FLOAT] for site in sites))
    return LatencyTable(
        schema_version=1, description=description, rest_milliseconds=_rounded(max(0.0, rest)), rows=tuple(rows)
    )


def _shares(timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return the times of a site's kinds as shares of the model's in the same rounds."""
    return {name: 1 / timing.speedup for name, timing in timings.items() if name != _WHOLE}


def _open_kinds(model: SiteModel, folder: Path, open_file: Opener, threads: int) -> dict[str, Callable[[], object]]:
    """Return what runs a site in floating point, and in integers with weights of each width that makes a difference."""
    import onnx

    has_weight = any(is_weight for _, _, is_weight in model.operands)
    kinds = {_FLOAT: model.make(None)}
    for bits in _WEIGHT_BITS if has_weight else (8,):
        kinds[str(bits)] = model.make(bits)
    opened = {}
    for name, made in kinds.items():
        path = folder / f"{name}.onnx"
        onnx.save(made, path)
        opened[name] = open_file(path, model.inputs, threads)
    return opened


def _rows(site: Site, shares: Mapping[str, float], total: float) -> list[LatencyRow]:
    """Return a site's rows: any option runs in floating point, uniform ones in integers."""
    rows = []
    for name, share in shares.items():
        is_float = name == _FLOAT
        widths = {} if is_float else {each.name: int(name) if each.is_weight else 8 for each in site.operands}
        scheme = None if is_float else _SCHEME
        rows.append(LatencyRow(site=site.name, scheme=scheme, milliseconds=_rounded(share * total), **widths))
    return rows


def _rounded(milliseconds: float) -> float:
    """Round to nanoseconds."""
    return round(milliseconds, 6)
