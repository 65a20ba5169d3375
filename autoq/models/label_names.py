"""Other names of a model's outputs: the words of a synset, the synset of words, the parts of a list of synonyms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_ALIKE = 0.95
"""Share of a model's class names that have to be ImageNet's, each in its place: spellings differ in a few."""
_SUBSETS = {1000: "imagenet-1k", 11221: "imagenet-21k-miil", 21841: "imagenet-22k"}


def alternative_names(label_names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return other names of each output, by which class folders may be called.

    Those of ImageNet's classes are known as synsets and as words, whichever of them the model uses. Synonyms, which
    are separated by commas, each count.

    >>> alternative_names(["tench, Tinca tinca", "cat"])
    [('tench', 'Tinca tinca'), ()]
    """
    known = _imagenet_names(label_names) or [()] * len(label_names)
    return [tuple(_other([name, *others])) for name, others in zip(label_names, known, strict=True)]


def _other(names: Sequence[str]) -> list[str]:
    """Return all names but the first, and the synonyms that any consists of."""
    synonyms = [part.strip() for name in names if "," in name for part in name.split(",")]
    return list(dict.fromkeys([*names[1:], *synonyms]))


def _imagenet_names(label_names: Sequence[str]) -> list[tuple[str, ...]] | None:
    """Return the synset and the words of each output if these are the classes of ImageNet, in its order."""
    if len(label_names) not in _SUBSETS:
        return None
    import timm

    subset: Any = timm.data.ImageNetInfo(  # type: ignore[attr-defined]
        _SUBSETS[len(label_names)]
    )
    for own in (subset.label_names(), subset.label_descriptions()):
        alike = sum(one == other for one, other in zip(own, label_names, strict=True))
        if alike >= _ALIKE * len(label_names):
            return list(zip(subset.label_names(), subset.label_descriptions(), strict=True))
    return None
