"""Models by name or as objects: the only home of timm and transformers."""

from autoq.models.letterbox_transform import LetterboxTransform
from autoq.models.loaded import IN_MEMORY, LoadedModel, weights_sha256
from autoq.models.loading import load_model, modules_to_load
from autoq.models.python_models import describe_module, dtype_of
from autoq.models.saving import save_model
from autoq.models.square_transform import SquareTransform
from autoq.models.timm_models import BUNDLED_MODEL

__all__ = [
    "BUNDLED_MODEL",
    "IN_MEMORY",
    "LetterboxTransform",
    "LoadedModel",
    "SquareTransform",
    "describe_module",
    "dtype_of",
    "load_model",
    "modules_to_load",
    "save_model",
    "weights_sha256",
]
