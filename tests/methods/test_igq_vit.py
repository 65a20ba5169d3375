"""IGQ-ViT."""

from __future__ import annotations

from autoq.methods import MethodOptions, create_method
from autoq.recipe import OperandConfig
from autoq.tasks import make_task
from tests.methods.configured import by_kind, configs, uniform


def test_configurations() -> None:
    assert by_kind(create_method("igq-vit")) == {
        "image": uniform(8),
        "weight": uniform(3, granularity="channel"),
        "layer input": OperandConfig(scheme="instance_groups", bits=5, groups=8),
        "query": uniform(5, granularity="head"),
        "key": uniform(5, granularity="head"),
        "value": uniform(5, granularity="head"),
        "attention map": OperandConfig(scheme="instance_groups", bits=4, groups=8),
        "gelu output": OperandConfig(scheme="instance_groups", bits=5, groups=8),
    }


def test_protocol() -> None:
    method = create_method("igq-vit")
    settings = method.settings(3)
    assert (method.images, settings.observer, settings.percentile, settings.seed) == (32, "percentile", 99.9, 3)
    assert create_method("igq-vit", MethodOptions(observer="mse")).settings(3).observer == "mse"


def test_one_image_for_detectors() -> None:
    published, own = (create_method("igq-vit", MethodOptions(protocol=name)) for name in ("published", "autoq"))
    detection, classification = make_task("detection"), make_task("classification")
    assert [published.for_task(task).calibration_images for task in (detection, classification)] == [1, 32]
    assert own.for_task(detection).calibration_images == 32
    assert published.settings(0) == own.settings(0)


def test_groups_of_igq_vit() -> None:
    def groups(chosen: int | None) -> set[int]:
        method = create_method("igq-vit", MethodOptions(groups=chosen))
        return {config.groups for *_, config in configs(method) if config.scheme == "instance_groups"}

    assert groups(None) == {8}
    assert groups(3) == {3}
    assert groups(1) == set()  # one group is a plain range
