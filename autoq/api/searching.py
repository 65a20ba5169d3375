"""``autoq.search``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from autoq.api.opening import ModelInput, ModelOptions, open_model, shown
from autoq.api.result import SearchResult
from autoq.data import GivenImages
from autoq.events import Progress, ignore
from autoq.files import folder_or_temporary
from autoq.models import IN_MEMORY
from autoq.models.loaded import Preprocess
from autoq.runs.images import most_held_out
from autoq.runs.opening import GivenObjects
from autoq.runs.search.run import run_search
from autoq.runs.search.settings import FAST, SearchSettings, make_settings


def search(
    model: ModelInput = "vit_digits",
    images: object = "digits",
    budget_bops: str | int | float | None = None,
    *,
    budget_size: str | int | float | None = None,
    budget_activations: str | int | float | None = None,
    budget_latency: str | None = None,
    latency_table: str | os.PathLike[str] | None = None,
    labelled: object = None,
    space: str | os.PathLike[str] = "vit_w2-8",
    target: str | os.PathLike[str] | None = None,
    fix: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    trials: int | None = None,
    time_limit_seconds: float | None = None,
    calib_images: int = 128,
    observer: str = "mse",
    fast: bool = False,
    rotate: bool | None = None,
    centre_keys: bool | None = None,
    reparameterize: bool | None = None,
    second_order: bool | None = None,
    sampler: str = "progressive",
    proxy: str = "kl",
    sensitivity: str = "fisher",
    baselines: str | None = None,
    task: str = "classification",
    output: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    finish: bool | None = None,
    reconstruct: bool = False,
    reconstruct_iterations: int | None = None,
    reconstruct_images: int = 1024,
    eval_recipes: int = 24,
    preprocess: Preprocess | None = None,
    example_input: Tensor | None = None,
    label_names: Sequence[str] | None = None,
    pretrained: bool = True,
    workers: int = 1,
    executor: str | None = None,
    address: str | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | bool = False,
) -> SearchResult:
    """Search the bits, groups and logarithm bases of every operand within budgets of operations, memory and time.

    Calibrates every option of the search space, measures what each alone costs, allocates exactly, and improves on
    that with an Optuna study. The model is not changed.

    Args:
        model: a ``torch.nn.Module`` in evaluation mode, which takes one tensor and returns a tensor, a tuple, a dict or
            a dataclass; or a name: of timm, ``hf-hub:OWNER/NAME``, ``local-dir:PATH``, ``hf-dir:PATH``,
            ``python:package.module:function`` or ``vit_digits``.
        images: a few hundred unlabelled images, some to calibrate on and some to score on: a tensor (N, C, H, W),
            normalised as the model takes it; a data set, a ``DataLoader`` or any iterable of batches (labels are
            ignored, dictionaries with ``pixel_values`` understood); or a name: an image folder, a tar of one,
            ``digits``, ``hfds/NAME``.
        budget_bops: bit operations per image: ``"w4a4"`` (what uniform 4/4 costs this model), ``"60%"`` (of uniform
            8/8), ``"12.5G"``, or a number; ``"w4a4"`` where no budget is given. Of several budgets all are kept; the
            front is over the first in the order BOPs, size, latency, or over BOPs.
        budget_size: bytes of the weights with their scales: ``"3.2MB"``, ``"w4a4"``, ``"60%"``, or a number.
        budget_activations: bytes of the largest set of live activations: ``"250kB"``, ``"w4a4"``, ``"60%"``, or a
            number.
        budget_latency: time by ``latency_table``: ``"4ms"``, ``"w4a4"`` or ``"60%"``.
        latency_table: JSON or CSV file with measured times of sites, which are added up.
        labelled: labelled images that calibration never sees, to measure accuracy on: (images, labels), a data set or
            an iterable of such batches, or a name.
        space: a shipped search space (``vit_w2-8``, ``bits_only``, ``groups_only``, ``deployable_4-8``,
            ``formats_4-8``, ``onnxruntime_8``, ``integer_8``, ``fpga_2-8``,
            ``weights_2-8``) or a TOML file.
        target: what there is where recipes are to run, to which the space is narrowed: a shipped target (``any``,
            ``onnxruntime-avx2``, ``fpga``, ``int8-int4``) or a TOML file.
        fix: operands that keep one width whatever the space offers: ``"head:*=8"``, a glob over ``SITE:OPERAND`` (all
            operands without a colon), ``=`` and bits; or several, of which the last that matches counts.
        exclude: globs over operands that stay in floating point, likewise; exclusion wins over ``fix``.
        trials: recipes to evaluate; None: 100.
        time_limit_seconds: seconds after which the search is done, accuracy included; not what ``finish`` and
            ``reconstruct`` do after it.
        calib_images: how many of ``images`` calibrate, a seeded subset where it can be chosen. As many others score
            recipes, or as many as there are; where fewer than a quarter, or than 32, are left, the same ones.
        observer: how quantizer ranges are found; ``"fpcs"``, by the error of each layer's output, is the most careful.
        fast: take least time: of the seven arguments that may be None, those that are: no rotation, centring,
            reparameterization, second-order rounding and finishing, baselines of the space alone, 60 trials.
        rotate: rotate channels first, where that can be folded into weights and helps (QuaRot); None: yes.
        centre_keys: move attention keys around zero first, where that can be folded into weights and helps; None: yes.
        reparameterize: rescale LayerNorm outputs channel by channel first (RepQ-ViT); None: yes.
        second_order: round weights by the error of each layer's output (GPTQ) rather than to nearest; None: yes.
        sampler: how recipes are proposed.
        proxy: the loss that is minimised.
        sensitivity: the proxy by which options are measured alone.
        baselines: what to compare with: ``"uniform"`` (recipes of the space alone), ``"published"`` (methods that
            calibrate fast too) or ``"all"`` (those too that may take longer than the search); None: published.
        task: what the output means: ``"classification"`` (softmax over the last axis), ``"detection"`` (classes, boxes
            and masks), ``"instance-segmentation"`` (the same, of which masks are required),
            ``"semantic-segmentation"`` (softmax over the axis after that of images) or ``"dense"`` (a map, compared by
            squared error).
        output: dotted name of the part of the output that is compared (``"logits"``, ``"aux.1"``); None: as the task
            chooses.
        task_options: settings of the task by name, of detectors ``{"nms_iou": 0.5, "most_objects": 300}``.
        finish: when the search is over, solve the weights of the best recipe and the knee again, in closed form, on
            their own quantized inputs (``autoq.finish``); None: yes.
        reconstruct: after that, train their rounding and scales (``autoq.reconstruct``).
        reconstruct_iterations: training steps of each block.
        reconstruct_images: images of ``images`` to learn from, at most.
        eval_recipes: most recipes whose accuracy is measured.
        preprocess: from a PIL image to a tensor (C, H, W), or an image processor of transformers, where images are not
            tensors and the model does not say.
        example_input: an example of the input, of shape (N, ...), where images do not tell.
        label_names: names of the outputs, by which class folders are matched.
        pretrained: False for random weights, of a model that is named.
        workers: how many processes evaluate recipes side by side, for a model and images that are named. A script that
            asks for several does so under ``if __name__ == "__main__":``, as processes import it again.
        executor: where they evaluate; None: ``"local"`` with one worker, else ``"processes"``.
        address: of the Ray cluster, for ``"ray"``; None: one is started on this machine.
        storage: URL of a database that every trial is written to as well, as SQLAlchemy has it.
        study_name: of the study there; None: the name of ``out``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        seed: of everything that is random.
        out: run directory, which the same call resumes; None: a temporary one, which lives as long as the result.
        progress: True for a live display on standard error, or a callback that is given events (``autoq.events``).

    Returns:
        The front of recipes, the best one, pictures.

    Raises:
        InputError: an argument is wrong; a ``ValueError``, ``TypeError`` or ``FileNotFoundError`` too.
        RunError: something failed while running.

    Examples:
        >>> import autoq
        >>> result = autoq.search("vit_digits", "digits", "w4a4", trials=8, calib_images=8, fast=True)
        >>> result.best.cost.bops <= result.budgets["bops"]
        True
        >>> result.recipe(result.front.index[-1]) == result.best
        True
    """
    values: dict[str, Any] = {
        "budget_bops": _text(budget_bops),
        "budget_size": _text(budget_size),
        "budget_activations": _text(budget_activations),
        "budget_latency": budget_latency,
        "latency_table": _text(latency_table),
        "space": os.fspath(space),
        "target": None if target is None else os.fspath(target),
        "fix": (fix,) if isinstance(fix, str) else fix,
        "exclude": (exclude,) if isinstance(exclude, str) else exclude,
        "time_limit_seconds": time_limit_seconds,
        "calib_images": calib_images,
        "observer": observer,
        "sampler": sampler,
        "proxy": proxy,
        "sensitivity": sensitivity,
        "task": task,
        "task_options": dict(task_options or {}),
        "output": output,
        "reconstruct": reconstruct,
        "reconstruct_iterations": reconstruct_iterations,
        "reconstruct_images": reconstruct_images,
        "eval_recipes": eval_recipes,
        "pretrained": pretrained,
        "workers": workers,
        "executor": executor,
        "address": address,
        "storage": storage,
        "study_name": study_name,
        "device": device,
        "seed": seed,
    }
    chosen = {
        "trials": trials,
        "rotate": rotate,
        "centre_keys": centre_keys,
        "reparameterize": reparameterize,
        "second_order": second_order,
        "baselines": baselines,
        "finish": finish,
    }
    values |= dict(FAST if fast else {}) | {key: value for key, value in chosen.items() if value is not None}
    options = ModelOptions(preprocess, example_input, label_names, pretrained, device)
    settings, given = _settings(values, model, images, labelled, options)
    with shown(progress) as callback:
        return search_with(settings, out, callback, given)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def search_with(
    settings: SearchSettings,
    out: str | os.PathLike[str] | None = None,
    progress: Progress = ignore,
    given: GivenObjects | None = None,
) -> SearchResult:
    """Search with validated settings; see :func:`search`.

    Args:
        settings: what to search.
        out: run directory, in which a report is written; None: a temporary one.
        progress: called with each event.
        given: a model and images that were given as objects.
    """
    folder, kept = folder_or_temporary(out)
    result = SearchResult(folder, kept)
    on_searched = None if kept is not None else result.write_report
    run_search(settings, folder, progress, on_searched, given)
    if kept is None:
        result.write_report()
    return result


def _settings(
    values: dict[str, Any], model: ModelInput, images: object, labelled: object, options: ModelOptions
) -> tuple[SearchSettings, GivenObjects]:
    """Make validated settings, and the objects that their names stand for."""
    names = {"model": model if isinstance(model, str) else f"{IN_MEMORY}{type(model).__name__}"}
    given = {"data": images, "eval_data": labelled}
    for key, value in given.items():
        if isinstance(value, str):
            names[key] = value
        elif value is not None or key == "data":
            given[key] = GivenImages(value)
            names[key] = GivenImages(value).name
    settings = make_settings({**values, **names}, "argument")
    if isinstance(given["data"], GivenImages):
        given["data"] = given["data"].kept(settings.most_images + most_held_out(settings.calib_images))
    session = open_model(model, options, given["data"])
    objects = {key: None if isinstance(value, str) else value for key, value in given.items()}
    return settings, GivenObjects(session=session, **objects)
