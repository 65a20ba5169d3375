"""What a recipe costs and loses, as it is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from autoq.recipe._base import Frozen

LabelsBy = Literal["name", "index", "order"]
"""How labels were matched with outputs: class folders have the names of outputs, or their indices, or (where the model
names nothing and there is a folder for each output) are taken in natural order."""


class CostRecord(Frozen):
    """Cost of a recipe.

    Attributes:
        bops: bit operations per image, overhead included.
        group_bops: the part that groups and transforms add.
        weight_layers_only_bops: without overhead and products of activations.
        weight_bytes: of the weights, their codes packed, with scales and zero points.
        activation_bytes: of the largest set of live activations, per image; None where it was not counted.
        latency_ns: by the latency table of a search, in nanoseconds; None without one.
    """

    bops: int
    group_bops: int
    weight_layers_only_bops: int
    weight_bytes: int
    activation_bytes: int | None = None
    latency_ns: int | None = None

    def amount(self, field: str) -> int:
        """Return a cost by the name of its field.

        Raises:
            ValueError: it was not counted.
        """
        found: int | None = getattr(self, field)
        if found is None:
            raise ValueError(f"{field} of this recipe was not counted")
        return found


OF_LABELS = ("labelled_images", "labels_by", "labelled_kl_nats", "full_precision")
"""Fields of a score that are there where metrics are."""


class ScoreRecord(BaseModel):
    """Discrepancy of a recipe's predictions from full precision, and the task's metrics where labels exist.

    JSON has a metric beside the other keys, by its name (``top1_percent``, ``rmse``).

    Attributes:
        kl_nats: mean divergence of an image's prediction, in nats.
        agreement_percent: images on which both predict the same; None for tasks that do not say so.
        sqnr_db: 10 log10 of the output's power over its squared error, in dB.
        output_mse: mean squared error of an element of the output; None in recipes of early versions. A recipe for
            classification has it as ``logit_mse``.
        images: that these are means over.
        calibration_kl_nats: ``kl_nats`` on the images that calibrated, where these are others.
        labelled_images: that the metrics are measured on; None where there were no labels.
        labels_by: how the labels were matched with the model's outputs, likewise.
        labelled_kl_nats: ``kl_nats`` on the same labelled images, which neither calibrated nor chose the recipe.
        full_precision: the task's metrics of the model in full precision on the same labelled images.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float | None]

    kl_nats: float
    agreement_percent: float | None = None
    sqnr_db: float
    output_mse: float | None = Field(default=None, validation_alias=AliasChoices("output_mse", "logit_mse"))
    images: int
    calibration_kl_nats: float | None = None
    labelled_images: int | None = None
    labels_by: LabelsBy | None = None
    labelled_kl_nats: float | None = None
    full_precision: dict[str, float] | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The task's metrics on the labelled images, by name."""
        return {name: value for name, value in self.__pydantic_extra__.items() if value is not None}

    def with_metrics(
        self,
        metrics: Mapping[str, float],
        images: int,
        labels_by: LabelsBy | None,
        full_precision: Mapping[str, float] | None,
        labelled_kl_nats: float | None = None,
    ) -> ScoreRecord:
        """Return the score with metrics on labelled images; arguments as in the attributes."""
        full = None if full_precision is None else dict(full_precision)
        last = {
            "labelled_images": images,
            "labels_by": labels_by,
            "labelled_kl_nats": labelled_kl_nats,
            "full_precision": full,
        }
        return ScoreRecord(**self.without_metrics().model_dump() | dict(metrics) | last)

    def without_metrics(self) -> ScoreRecord:
        """Return the score without metrics on labelled images."""
        return ScoreRecord(**self.model_dump(include=set(ScoreRecord.model_fields) - set(OF_LABELS)))
