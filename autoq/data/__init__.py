"""Images to calibrate and evaluate on: named by a string or given as objects, and their tensors."""

from autoq.data._base import ImageSource
from autoq.data._files import BaseFileSource
from autoq.data.checks import check_headers, shared_images
from autoq.data.given import GivenImages, name_of
from autoq.data.label_maps import UNLABELLED, LabelMap, MapSource, map_of_objects
from autoq.data.labels import class_indices
from autoq.data.loading import fingerprint, load_images, subset
from autoq.data.objects import AnnotatedSource, Objects
from autoq.data.opening import Role, open_source

__all__ = [
    "UNLABELLED",
    "AnnotatedSource",
    "BaseFileSource",
    "GivenImages",
    "ImageSource",
    "LabelMap",
    "MapSource",
    "Objects",
    "Role",
    "check_headers",
    "class_indices",
    "fingerprint",
    "load_images",
    "map_of_objects",
    "name_of",
    "open_source",
    "shared_images",
    "subset",
]
