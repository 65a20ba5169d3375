"""What every run that calibrates a search space is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from autoq.errors import CalibrationError

if TYPE_CHECKING:
    from autoq.optimization.space.overrides import Overrides
    from autoq.tasks import BaseTask


MOST = 1_000_000
"""Images, trials or steps that can be asked for: more is a slip of the finger."""
MOST_SEED = 2**32 - 1
"""What every library takes for a seed."""
PLAIN_CALIBRATION: Mapping[str, Any] = {
    "rotate": False,
    "centre_keys": False,
    "reparameterize": False,
    "second_order": False,
}
"""Settings of the calibration that takes least time: the model as it is, weights rounded to nearest."""


class CalibrationChoices(BaseModel):
    """What every command that calibrates a search space is told.

    Attributes:
        model: timm name, ``local-dir:PATH``, ``hf-hub:NAME`` or ``vit_digits``.
        pretrained: False for random weights.
        data: calibration images.
        space: name of a shipped search space, or the path of a TOML file.
        target: name of a shipped hardware description, or the path of a TOML file, that the space is narrowed to.
        fix: operands that keep one width whatever the space offers, ``SITE[:OPERAND]=BITS`` with a glob before ``=``.
        exclude: globs over operands that stay in floating point, ``SITE[:OPERAND]``.
        observer: how quantizer ranges are chosen; ``fpcs``, by the error of each layer's output, is the most careful
            one and takes longest.
        rotate: whether channels are rotated first, where that can be folded into weights and helps.
        centre_keys: whether attention keys are moved around zero first, where weights can take it up and it helps.
        reparameterize: whether LayerNorm outputs are rescaled channel by channel first (RepQ-ViT).
        second_order: whether weights are rounded by the error of each layer's output (GPTQ) rather than to nearest.
        calib_images: images to calibrate on; a search scores on as many others, if there are.
        device: ``auto``, ``cpu`` or a CUDA device.
        seed: of everything that is random.
        task: what the model's output means; a name in ``autoq.tasks.TASKS``.
        output: dotted name of the leaf of the model's output that is compared, or None: as the task chooses.
        task_options: settings of the task by name, others than its defaults.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "vit_digits"
    pretrained: bool = True
    data: str = "digits"
    space: str = "vit_w2-8"
    target: str | None = None
    fix: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    observer: str = "mse"
    rotate: bool = True
    centre_keys: bool = True
    reparameterize: bool = True
    second_order: bool = True
    calib_images: int = Field(default=128, ge=1, le=MOST)
    device: str = "auto"
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    task: str = "classification"
    output: str | None = None
    task_options: dict[str, int | float | str | None] = Field(default_factory=dict)

    @field_validator("observer")
    @classmethod
    def _check_observer(cls, name: str) -> str:
        from autoq.calibration.observers import OBSERVERS

        try:
            OBSERVERS.lookup(name)
        except CalibrationError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("task")
    @classmethod
    def _check_task(cls, name: str) -> str:
        from autoq.tasks import TASKS

        TASKS.lookup(name)
        return name

    @field_validator("task_options")
    @classmethod
    def _check_task_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        from autoq.tasks import make_task

        if "task" in info.data:
            make_task(info.data["task"], **options)
        return options

    @field_validator("fix", "exclude")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        from autoq.optimization.space.overrides import Overrides

        Overrides.parse(**{str(info.field_name): patterns})
        return patterns

    @property
    def overrides(self) -> Overrides:
        """What operands get whatever the space says."""
        from autoq.optimization.space.overrides import Overrides

        return Overrides.parse(self.fix, self.exclude)

    def make_task(self) -> BaseTask:
        """Return the task, not fitted yet."""
        from autoq.tasks import make_task, with_settings

        return with_settings(make_task(self.task, output=self.output), self.task_options)
