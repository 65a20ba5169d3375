"""Heads: what one leaf of a model's output means, one kind of distribution a file."""

from __future__ import annotations

from autoq.tasks.heads._base import BaseHead, HeadProbes
from autoq.tasks.heads.bernoulli import BernoulliHead
from autoq.tasks.heads.categorical import CategoricalHead
from autoq.tasks.heads.gaussian import GaussianHead
from autoq.tasks.heads.laplace_boxes import LaplaceBoxesHead

__all__ = ["BaseHead", "BernoulliHead", "CategoricalHead", "GaussianHead", "HeadProbes", "LaplaceBoxesHead"]
