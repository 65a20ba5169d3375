"""What calibration images said about changes to a model's weights, and how files keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from torch import Tensor

from autoq.calibration.transforms.reparameterization import ChannelFactors

_OF_FACTORS = tuple(each.name for each in fields(ChannelFactors))


@dataclass(frozen=True)
class FoldedTransforms:
    """Changes that were folded into a model's weights and depend on its calibration images.

    Attributes:
        factors: by which LayerNorms were reparameterized, by site.
        centres: that were taken away from attention keys, by the site of the product of queries and keys.
    """

    factors: Mapping[str, ChannelFactors] = field(default_factory=dict)
    centres: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name: ``SITE.ratio``, ``.offset``, ``.scale``, ``.zero_point``; ``SITE.centre``."""
        held: dict[str, Tensor] = {}
        for site, factor in self.factors.items():
            held |= {f"{site}.{name}": getattr(factor, name) for name in _OF_FACTORS}
        held |= {f"{site}.centre": centre for site, centre in self.centres.items()}
        return held

    def document(self) -> dict[str, list[str]]:
        """Return the names of sites, as plain JSON; :meth:`read` takes it with the tensors."""
        return {"reparameterized": list(self.factors), "centred": list(self.centres)}

    @classmethod
    def read(cls, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Make them from what a file holds; files of before centring have no centres.

        Raises:
            KeyError: names a tensor that is missing.
        """
        return cls(
            {
                site: ChannelFactors(**{name: tensors[f"{site}.{name}"] for name in _OF_FACTORS})
                for site in document["reparameterized"]
            },
            {site: tensors[f"{site}.centre"] for site in document.get("centred", [])},
        )
