"""Models by name: the only home of timm."""

from autoq.models.loaded import LoadedModel, weights_sha256
from autoq.models.loading import BUNDLED_MODEL, load_model
from autoq.models.saving import save_model

__all__ = ["BUNDLED_MODEL", "LoadedModel", "load_model", "save_model", "weights_sha256"]
