"""Recipes: how every operand of a model is quantized, keyed by name, written to be read and edited by a person."""

from autoq.recipe.document import SCHEMA_VERSION, Recipe, hash_sites, sites_to_json
from autoq.recipe.operands import FLOAT_BITS, IMAGE_BITS, Granularity, OperandConfig, Overflow, SiteConfig
from autoq.recipe.records import CostRecord, LabelsBy, ScoreRecord
from autoq.recipe.references import (
    CalibrationReference,
    FinishingReference,
    ModelReference,
    OperandsReference,
    ReconstructionReference,
    SearchReference,
)

__all__ = [
    "FLOAT_BITS",
    "IMAGE_BITS",
    "SCHEMA_VERSION",
    "CalibrationReference",
    "CostRecord",
    "FinishingReference",
    "Granularity",
    "LabelsBy",
    "ModelReference",
    "OperandConfig",
    "OperandsReference",
    "Overflow",
    "Recipe",
    "ReconstructionReference",
    "ScoreRecord",
    "SearchReference",
    "SiteConfig",
    "hash_sites",
    "sites_to_json",
]
