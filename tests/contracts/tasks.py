"""What every task must fulfil. Inherit :class:`TaskContract` in a ``Test...`` class and give its task and outputs."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from autoq.tasks import TASKS, BaseTask, Labels, Outputs, make_task, task_from_record, task_to_record

Shapes = tuple[tuple[int, ...], ...]
"""Of one image's compared outputs."""


class TaskContract:
    """Checks for one task on outputs of several shapes."""

    task: ClassVar[BaseTask]
    """Not fitted."""
    shapes: ClassVar[list[Shapes]]
    labels: ClassVar[dict[int, Labels]]
    """Labels of the four images of some cases, by the number of the case."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.shapes, ids=str)

    def outputs(self, case: Shapes, images: int = 4, seed: int = 0) -> Outputs:
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(images, *shape, generator=generator, dtype=torch.float64) for shape in case)

    def fitted(self, case: Shapes) -> BaseTask:
        return self.task.fitted([self.outputs(case, seed=7)])

    def test_is_registered_and_travels(self) -> None:
        task = self.fitted(self.shapes[0])
        assert TASKS[task.name] is type(task)
        record = json.loads(json.dumps(task_to_record(task)))
        assert task_from_record(record) == task == pickle.loads(pickle.dumps(task))
        assert make_task(task.name) == type(task)()
        assert hash(task) == hash(task_from_record(record))

    def test_fitting_a_fitted_task_reads_nothing(self) -> None:
        def unreadable() -> Iterator[Outputs]:
            yield self.outputs(self.shapes[0])
            raise AssertionError

        task = self.fitted(self.shapes[0])
        assert task.fitted(unreadable()) == task

    def test_divergence_is_zero_for_equal_outputs_alone(self, case: Shapes) -> None:
        task, reference, other = self.fitted(case), self.outputs(case), self.outputs(case, seed=1)
        found = task.divergence(reference, other)
        assert found.shape == (4,)
        assert (found > 0).all()
        assert task.divergence(reference, reference).abs().max() < 1e-14

    def test_images_are_compared_one_by_one(self, case: Shapes) -> None:
        task, reference, other = self.fitted(case), self.outputs(case), self.outputs(case, seed=1)
        alone = [tuple(tuple(x[i : i + 1] for x in outputs) for outputs in (reference, other)) for i in range(4)]
        one_by_one = torch.cat([task.divergence(*each) for each in alone])
        torch.testing.assert_close(one_by_one, task.divergence(reference, other), rtol=1e-12, atol=0)
        agreement, same = task.agreement(reference, other), task.agreement(reference, reference)
        if not task.has_agreement:
            assert agreement is None
            assert same is None
            return
        assert agreement is not None
        assert same is not None
        assert agreement.shape == (4,)
        assert ((agreement >= 0) & (agreement <= 1)).all()
        assert (same == 1).all()

    def hessian(self, task: BaseTask, outputs: Outputs) -> Tensor:
        """Of one image's divergence at its own outputs, of shape (elements, elements)."""
        sizes = [x.numel() for x in outputs]

        def divergence(flat: Tensor) -> Tensor:
            parts = zip(torch.split(flat, sizes), outputs, strict=True)
            return task.divergence(outputs, tuple(part.reshape(x.shape) for part, x in parts)).sum()

        found: Tensor = torch.autograd.functional.hessian(divergence, torch.cat([x.flatten() for x in outputs]))
        return found

    def test_fisher_product_is_that_of_the_divergences_hessian(self, case: Shapes) -> None:
        task, outputs, change = self.fitted(case), self.outputs(case), self.outputs(case, seed=2)
        found = task.fisher_product(outputs, change)
        for image in range(4):
            own = tuple(x[image : image + 1] for x in outputs)
            expected = self.hessian(task, own) @ torch.cat([x[image].flatten() for x in change])
            torch.testing.assert_close(torch.cat([x[image].flatten() for x in found]), expected)

    def test_half_the_fisher_form_is_the_divergence_of_a_small_change(self, case: Shapes) -> None:
        task, outputs = self.fitted(case), self.outputs(case)
        small = tuple(1e-4 * x for x in self.outputs(case, seed=3))
        moved = tuple(x + e for x, e in zip(outputs, small, strict=True))
        products = task.fisher_product(outputs, small)
        forms = [(e * f).reshape(4, -1).sum(1) for e, f in zip(small, products, strict=True)]
        torch.testing.assert_close(torch.stack(forms).sum(0) / 2, task.divergence(outputs, moved), rtol=1e-3, atol=0)

    def test_probes_have_outer_products_with_the_mean_of_the_hessian(self, case: Shapes) -> None:
        """As many probes as elements, so that within a position the mean over them is exact."""
        task, outputs = self.fitted(case), self.outputs(case, images=1)
        elements = sum(x.numel() for x in outputs)
        count, draws = 1 << (elements - 1).bit_length(), 400
        many = tuple(x.expand(draws, *x.shape[1:]) for x in outputs)
        drawn = task.probes(count, 0).draw(many)
        assert [x.shape for x in drawn] == [(count, *x.shape) for x in many]
        rows = torch.cat([x.reshape(count, draws, -1) for x in drawn], -1)  # (K, draws, elements)
        found = torch.einsum("kni,knj->ij", rows, rows) / (count * draws)
        expected = self.hessian(task, outputs)
        scale = float(expected.diagonal().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * scale)
        torch.testing.assert_close(found.diagonal(), expected.diagonal(), rtol=0.05, atol=0.05 * scale)

    def test_probes_do_not_depend_on_batches(self, case: Shapes) -> None:
        task, outputs = self.fitted(case), self.outputs(case)
        whole, parts = task.probes(3, 5), task.probes(3, 5)
        at_once = whole.draw(outputs)
        split = [parts.draw(tuple(x[a:b] for x in outputs)) for a, b in ((0, 1), (1, 4))]
        for leaf, drawn in enumerate(at_once):
            torch.testing.assert_close(torch.cat([each[leaf] for each in split], 1), drawn)
        others = [task.probes(3, seed).draw(outputs)[0] for seed in range(6, 10)]
        assert not all(torch.equal(other, at_once[0]) for other in others)

    def test_loss_is_the_mean_divergence_and_leads_towards_the_target(self, case: Shapes) -> None:
        task, target, other = self.fitted(case), self.outputs(case), self.outputs(case, seed=1)
        moving = tuple(x.float().requires_grad_() for x in other)
        loss = task.loss(moving, target)
        assert loss.dtype == torch.float32
        assert float(loss.detach()) == pytest.approx(float(task.divergence(target, other).mean()), rel=1e-5)
        gradients = torch.autograd.grad(loss, moving)
        nearer = tuple((x - 1e-2 * g / g.norm()).detach() for x, g in zip(moving, gradients, strict=True))
        assert task.loss(nearer, target) < loss
        assert torch.isfinite(task.loss(tuple(x.bfloat16() for x in other), target))

    def test_metrics_are_what_the_meter_gives(self) -> None:
        names = [metric.name for metric in self.task.metrics]
        assert names
        assert len(set(names)) == len(names)
        assert not {"kl_nats", "agreement_percent", "sqnr_db", "output_mse", "images", "labelled_images"} & set(names)
        assert self.task.main_metric is self.task.metrics[0]
        assert self.labels
        for case, labels in self.labels.items():
            outputs = self.outputs(self.shapes[case])
            meter, parts = self.task.meter(), self.task.meter()
            meter.add(outputs, labels)
            for a, b in ((0, 3), (3, 4)):
                parts.add(tuple(x[a:b] for x in outputs), labels[a:b])
            accuracy = meter.accuracy()
            assert list(accuracy.metrics) == [name for name in names if name in accuracy.metrics]
            assert names[0] in accuracy.metrics
            assert accuracy.images == parts.accuracy().images == 4
            assert parts.accuracy().metrics == pytest.approx(accuracy.metrics)
            assert all(map(math.isfinite, accuracy.metrics.values()))
            measured = [metric for metric in self.task.metrics if metric.name in accuracy.metrics]
            assert all(metric.format(accuracy.metrics[metric.name]) for metric in measured)
            classes = meter.accuracy(per_class=True).per_class
            names_of_classes = {metric.name for metric in self.task.class_metrics}
            assert bool(classes) == bool(names_of_classes)
            assert all(set(figures) <= names_of_classes for figures in classes.values())
        with pytest.raises(ValueError, match="no images"):
            self.task.meter().accuracy()
