"""Find the spaces of a traced model that rotations can be folded into, whatever its architecture."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from autoq.calibration.transforms.rotation.head_probe import HeadProbe, find_head_space
from autoq.calibration.transforms.rotation.spaces import FoundSpaces, RotatableSpace
from autoq.calibration.transforms.rotation.stream_probe import StreamProbe
from autoq.graph.trace import TracedModel


def find_spaces(traced: TracedModel) -> FoundSpaces:
    """Find residual streams and the heads of attention products whose channels can be rotated in full precision.

    A stream can be if layers, additions of constants and LayerNorms that only layers read are all that touch its
    channels; heads, if the product alone reads what layers write (queries and keys), or layers alone read the product
    (values). The model is run twice on one image of zeros.

    Args:
        traced: any model.

    Returns:
        Spaces by name, streams first, in execution order.
    """
    nodes = {edge.node: site for (site, _), edge in traced.edges.items()}
    streams, heads = _streams(traced, nodes), _heads(traced)
    return FoundSpaces(streams.rotatable | heads.rotatable, streams.refused | heads.refused)


def _streams(traced: TracedModel, sites: Mapping[str, str]) -> FoundSpaces:
    probe = StreamProbe(traced.graph_module)
    probe.run_on_zeros()
    found = probe.streams
    found.settle()
    writers, readers = found.grouped(found.writers), found.grouped(found.readers)
    constants, scales = found.grouped(found.constants), found.grouped(found.scales)
    spoiled = {found.number_of(stream): node for stream, node in found.spoiled.items()}
    rotatable, refused = {}, {}
    for number, layers in writers.items():
        name, width = sites.get(layers[0].node, layers[0].node), layers[0].numbers.shape[1]
        if number in spoiled:
            node = spoiled[number]
            refused[name] = f"{sites.get(node.name, node.name)!r} takes its channels as they are"
        elif number not in readers:
            refused[name] = "no layer reads it"
        elif width < 2 or any(layer.node not in sites for layer in (*layers, *readers[number])):
            refused[name] = "it has a single channel, or a layer that is no site"
        else:
            own = (layers, readers[number], tuple(dict.fromkeys(constants.get(number, ()))), scales.get(number, ()))
            rotatable[name] = RotatableSpace(name, "stream", width, *own)
    return FoundSpaces(rotatable, refused)


def _heads(traced: TracedModel) -> FoundSpaces:
    probe = HeadProbe(traced.graph_module)
    probe.run_on_zeros()
    by_name: dict[str, fx.Node] = {node.name: node for node in traced.graph_module.graph.nodes}
    rotatable, refused = {}, {}
    for site in traced.sites:
        if site.op not in ("matmul", "bmm"):
            continue
        found = find_head_space(probe, by_name[traced.edges[site.name, "lhs"].node])
        if found is None:
            refused[site.name] = "its operands do not come from layers, and its result goes to no layer, untouched"
        else:
            rotatable[site.name] = RotatableSpace(
                site.name,
                "heads",
                found.writers[0].numbers.shape[1],
                found.writers,
                found.readers,
                operands=found.operands,
            )
    return FoundSpaces(rotatable, refused)
