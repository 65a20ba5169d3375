"""Images given as Python objects: tensors, data sets, loaders, any iterable of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoq.data.loading import random_indices
from autoq.errors import ArgumentTypeError, DataError

if TYPE_CHECKING:
    from torch import Tensor

Transform = Callable[[Any], "Tensor"]
"""From an image to a tensor (C, H, W)."""

Entry = tuple["Tensor", "Tensor | None"]
"""A batch of images, of shape (N, ...), and their labels, or None where there are none."""

IN_MEMORY = "memory:"
"""What the name of images begins with that were given as objects; their class follows."""
_IMAGE_KEYS = ("pixel_values", "image", "images", "img", "input", "inputs", "x")
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class GivenImages:
    """Images that were given as an object.

    Attributes:
        images: a tensor or array (N, ...); a pair of such and labels; a data set (``len`` and indices) of images or of
            (image, label) pairs; or an iterable of batches. Images are tensors or, with a transform, PIL images; what
            has three axes is one image. Entries may be dictionaries: ``pixel_values`` or ``image``, and ``labels``.
        transform: makes tensors of PIL images; None if it is unknown how.
    """

    images: Any
    transform: Transform | None = None

    def __post_init__(self) -> None:
        """Check that the object can hold images.

        Raises:
            ArgumentTypeError: it is neither a tensor nor a data set nor an iterable.
        """
        if isinstance(self.images, str | bytes | Mapping) or not (
            _is_array(self.images) or isinstance(self.images, Iterable) or _is_indexed(self.images)
        ):
            raise ArgumentTypeError(
                f"images are a tensor, a data set, an iterable of batches or a name, not {type(self.images).__name__}"
            )

    @property
    def name(self) -> str:
        """The name that records give these images."""
        return f"{IN_MEMORY}{type(self.images).__name__}"

    def kept(self, count: int) -> GivenImages:
        """Return the same images, readable repeatedly: of a generator the first ``count`` are held in memory."""
        if self.can_be_read_again():
            return self
        taken, found = [], 0
        for entry in self.images:
            taken.append(entry)
            image, _ = _parts(entry)
            found += len(image) if _is_array(image) and image.ndim != 3 else 1
            if found >= count:
                break
        return GivenImages(taken, self.transform)

    def example(self) -> Tensor | None:
        """Return the first image, of shape (1, ...); None if images are not tensors.

        Raises:
            DataError: there is no image.
        """
        entry = self.images if self._is_whole() else next(iter(self.images), None)
        if entry is None:
            raise DataError("there are no images: the iterable is empty")
        return self._entry(entry)[0][:1] if _is_array(_parts(entry)[0]) else None

    def sample(self, count: int, seed: int, spare: int = 0) -> Tensor:
        """Take images to calibrate on.

        Of a tensor or a data set, a seeded subset, the same in every process; of any other iterable, the first ones.

        Args:
            count: how many; all if there are no more.
            seed: chooses them.
            spare: how many more, which follow in the same order, if there are so many.

        Returns:
            Of shape (N, ...), N at most ``count + spare``.

        Raises:
            DataError: there is no image, or one cannot be read.
        """
        if self._is_whole():
            images, _ = self._entry(self.images, batched=True)
            return images if len(images) <= count else images[list(random_indices(len(images), count + spare, seed))]
        if _is_indexed(self.images) and not self._holds_batches():
            chosen = random_indices(len(self.images), count + spare, seed)
            return _joined([self._entry(self.images[index])[0] for index in chosen])
        taken: list[Tensor] = []
        found = 0
        for images, _ in self:
            taken.append(images[: count + spare - found])
            found += len(taken[-1])
            if found >= count + spare:
                break
        if not found:
            raise DataError("there are no images: the iterable is empty")
        return _joined(taken)

    def __iter__(self) -> Iterator[Entry]:
        """Yield all batches; single images become batches of one."""
        if self._is_whole():
            yield self._entry(self.images, batched=True)
            return
        entries = (self.images[i] for i in range(len(self.images))) if _is_indexed(self.images) else self.images
        for entry in entries:
            yield self._entry(entry)

    def batches(self, size: int) -> Iterator[Entry]:
        """Yield all images in batches of at most ``size``; single images are stacked.

        Raises:
            DataError: there is no image, one cannot be read, or only some have labels.
        """
        waiting: list[Entry] = []
        found = False
        for images, labels in self:
            found = True
            waiting.append((images, labels))
            if sum(len(each) for each, _ in waiting) >= size:
                yield from _split(_merged(waiting), size)
                waiting = []
        if waiting:
            yield from _split(_merged(waiting), size)
        if not found:
            raise DataError("there are no images: the iterable is empty")

    def count(self) -> int:
        """Count the images; reads all of them where no length is known."""
        loaded_from: Any = getattr(self.images, "dataset", None)  # of a DataLoader
        if _is_indexed(loaded_from):
            return len(loaded_from)
        if _is_indexed(self.images) and not self._holds_batches():
            return len(self.images)
        return sum(len(images) for images, _ in self)

    def can_be_read_again(self) -> bool:
        """Return whether the images can be iterated over more than once: not so for a generator."""
        return _is_indexed(self.images) or _is_array(self.images) or iter(self.images) is not self.images

    def _is_whole(self) -> bool:
        pair = isinstance(self.images, tuple) and len(self.images) == 2 and all(_is_array(each) for each in self.images)
        return _is_array(self.images) or (pair and len(self.images[0]) == len(self.images[1]))

    def _holds_batches(self) -> bool:
        """Return whether the entries of an indexed object are batches, by the first of them."""
        if not len(self.images):
            raise DataError("there are no images: the data set is empty")
        image, _ = _parts(self.images[0])
        return _is_array(image) and bool(image.ndim == 4)

    def _entry(self, entry: Any, *, batched: bool | None = None) -> Entry:
        """Return one entry as a batch.

        Raises:
            DataError: it holds no image.
        """
        import torch

        image, label = _parts(entry)
        if not _is_array(image):
            if self.transform is None or not hasattr(image, "convert"):
                remedy = "give preprocess" if hasattr(image, "convert") else "give tensors, PIL images or dictionaries"
                raise DataError(f"cannot make an image of an object of class {type(image).__name__!r}: {remedy}")
            image = self.transform(image)
        tensor = torch.as_tensor(image)
        if not tensor.is_floating_point():
            raise DataError(
                f"images are of type {str(tensor.dtype).removeprefix('torch.')}: give floating-point tensors, "
                "normalised as the model takes them, or PIL images and preprocess"
            )
        if batched is None:
            batched = tensor.ndim != 3
        if tensor.ndim < 2 or not tensor.numel():
            raise DataError(f"images have shape {tuple(tensor.shape)}: give (N, C, H, W), or (C, H, W) for one image")
        labels = None if label is None else torch.as_tensor(label)
        if not batched:
            tensor, labels = tensor.unsqueeze(0), None if labels is None else labels.unsqueeze(0)
        if labels is not None and (not labels.ndim or len(labels) != len(tensor)):
            raise DataError(f"{len(tensor)} images have labels of shape {tuple(labels.shape)}: give one for each image")
        return tensor, labels


def name_of(images: object) -> str:
    """Return the name that records give to images passed by name or as an object."""
    if isinstance(images, str):
        return images
    return images.name if isinstance(images, GivenImages) else GivenImages(images).name


def _is_array(value: object) -> bool:
    """Return whether the value is a tensor or an array of numbers with a shape."""
    return hasattr(value, "shape") and hasattr(value, "ndim") and hasattr(value, "dtype")


def _is_indexed(value: object) -> bool:
    """Return whether entries can be indexed: a list, or a data set that has a length."""
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not _is_array(value)


def _parts(entry: Any) -> tuple[Any, Any]:
    """Return the image or images of an entry, and its label or labels, or None."""
    if isinstance(entry, Mapping):
        image = next((entry[key] for key in _IMAGE_KEYS if key in entry), None)
        if image is None:
            raise DataError(f"a batch has the keys {', '.join(map(repr, entry))}: name the images 'pixel_values'")
        return image, next((entry[key] for key in _LABEL_KEYS if key in entry), None)
    if isinstance(entry, Sequence) and not isinstance(entry, str | bytes):
        if not entry:
            raise DataError("a batch is an empty sequence: give (images, labels)")
        return entry[0], entry[1] if len(entry) > 1 else None
    return entry, None


def _joined(parts: Sequence[Tensor]) -> Tensor:
    import torch

    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise DataError(f"images have shapes {sorted(shapes)}: resize them to one")
    return torch.cat(list(parts))


def _merged(entries: Sequence[Entry]) -> Entry:
    import torch

    images = _joined([images for images, _ in entries])
    labels = [label for _, label in entries if label is not None]
    if labels and len(labels) != len(entries):
        raise DataError("some images have labels and some have none: give labels for all or for none")
    return images, torch.cat(labels) if labels else None


def _split(entry: Entry, size: int) -> Iterator[Entry]:
    images, labels = entry
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield images[part], None if labels is None else labels[part]
