"""Settings that all tests share."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)  # tests run side by side, one a core
settings.register_profile("any machine", deadline=None)  # under load everything takes longer
settings.load_profile("any machine")
