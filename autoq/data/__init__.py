"""Images to calibrate and evaluate on: sources named by a string, seeded subsets, and their tensors."""

from autoq.data._base import ImageSource
from autoq.data.labels import class_indices
from autoq.data.loading import fingerprint, load_images, subset
from autoq.data.opening import Role, open_source

__all__ = ["ImageSource", "Role", "class_indices", "fingerprint", "load_images", "open_source", "subset"]
