"""Trace a model once with ``torch.export``; everything after works on the traced graph, whatever the architecture."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from autoq.errors import TraceError
from autoq.graph.clean import clean_
from autoq.graph.find import OperandEdge, find_sites
from autoq.graph.sites import Operand, Site, UncountedOp

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TracedModel:
    """A model as a graph of ATen operators, with its sites.

    Attributes:
        graph_module: runs the model; takes the input tensor, returns what the model returns. Shares its parameters.
        sites: every node that can be quantized, in execution order.
        uncounted: matmul-like nodes that are no site, and why; they run in floating point and are not in the BOPs.
        edges: (site, operand) to the place in the graph where a quantizer goes.
        macs: multiply-accumulates per image over all sites.
    """

    graph_module: fx.GraphModule
    sites: tuple[Site, ...]
    uncounted: tuple[UncountedOp, ...]
    edges: dict[tuple[str, str], OperandEdge] = field(repr=False)

    @cached_property
    def sites_by_name(self) -> dict[str, Site]:
        """Sites by name."""
        return {site.name: site for site in self.sites}

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image over all sites."""
        return sum(site.macs for site in self.sites)

    def operands(self) -> list[tuple[Site, Operand]]:
        """Every operand with its site, in execution order."""
        return [(site, operand) for site in self.sites for operand in site.operands]

    def weight(self, site: str, operand: str = "weight") -> Tensor:
        """The parameter (or folded constant) behind a weight operand."""
        node = self.edges[site, operand].source(self.graph_module)
        return torch.fx.graph_module._get_attr(self.graph_module, str(node.target)).detach()  # type: ignore[no-any-return]


def trace(module: nn.Module, example: Tensor) -> TracedModel:
    """Trace ``module`` with a free batch dimension.

    Args:
        module: in evaluation mode, on the device of ``example``; called with one tensor.
        example: input of shape (N, ...), N ≥ 2 (a batch of one would be taken for a constant).

    Raises:
        TraceError: the model cannot be traced; the message names the operation.
    """
    if example.shape[0] < 2:
        example = torch.cat([example, example])
    if module.training:
        raise TraceError("the model is in training mode: call .eval() first")
    batch = torch.export.Dim("batch", min=1)
    try:
        # Models that cache tensors as attributes while they run make export warn; the copies are dropped.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
            graph_module = program.module()
    except Exception as error:  # torch.export raises a dozen unrelated types
        raise TraceError(f"cannot trace {type(module).__name__}: {_explain(error)}") from error
    assert isinstance(graph_module, fx.GraphModule)  # noqa: S101 - narrows the declared type
    clean_(graph_module)
    found = find_sites(graph_module, example)
    graph_module.graph.eliminate_dead_code()
    graph_module.graph.lint()
    graph_module.recompile()
    for op in found.uncounted:
        _logger.info("%s (%s) is not counted and stays in floating point: %s", op.name, op.op, op.reason)
    return TracedModel(graph_module, found.sites, found.uncounted, found.edges)


def _explain(error: BaseException) -> str:
    """One line that names the operation at fault, from the many that torch.export prints."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if not line.startswith(("Traceback", "File "))), type(error).__name__)
    reason = re.split(r"(?<=[^.]\.)\s", reason)[0].rstrip(".")
    caused = re.search(r"Caused by: (.+)", text)
    operation = caused.group(1) if caused else None
    if operation is None:
        frames = re.findall(r'File "([^"]+)", line (\d+), in [^\n]+\n\s+([^\n^]+)', text)
        ours = [frame for frame in frames if "/torch/" not in frame[0]]
        if ours:
            operation = f"{ours[-1][2].strip()!r} ({ours[-1][0].rsplit('/', 1)[-1]}:{ours[-1][1]})"
    where = f" at {operation.strip()}" if operation else ""
    return (
        f"{reason}{where}. Rewrite that operation without a decision that depends on tensor values or on the batch size"
    )
