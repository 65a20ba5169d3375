"""How fast recipes are evaluated, in full-precision passes over the same images: alone, and as a search proposes them.

python -m benchmarks.evaluator_speed --model deit_tiny_patch16_224 --no-pretrained --data IMAGES
python -m benchmarks.evaluator_speed --run autoq-runs/RUN          # the recipes of a finished search, in their order

Every timing of a candidate is paired with a full-precision pass right before it, so that a busy neighbour slows both;
ratios are medians, or totals over a stream. Random weights give the same times as trained ones.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import timm
import torch

from autoq.calibration import Bank, CalibrationSettings
from autoq.cost import model_cost
from autoq.errors import SpaceError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.optimization.space import ResolvedSpace, load_space, resolve_space
from autoq.optimization.storage import load_trials
from autoq.recipe import SiteConfig
from autoq.runs.search.directory import STUDY_NAME
from autoq.runs.session import Session
from autoq.scoring import Evaluator, choose_batch_size
from autoq.units import format_bops
from benchmarks.result_lines import append_result

Recipe = Mapping[str, SiteConfig]


def main() -> None:
    """Measure and print."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.run is not None:
        take_over_settings_(arguments)
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "optuna": optuna.__version__,
        },
        "model": arguments.model,
    }
    print(f"{result['machine']}, {arguments.threads} threads, {result['versions']}")
    session = Session.open(arguments.model, not arguments.no_pretrained, arguments.device)
    result["trace_seconds"] = seconds_of(
        lambda: trace(session.loaded.module, torch.zeros(2, *session.loaded.input_size, device=session.device))
    )
    images = session.calibration_images(arguments.data, arguments.images, arguments.seed)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings())
    batch_size = arguments.batch_size or choose_batch_size(session.traced)
    result |= {"images": len(images.tensor), "batch_size": batch_size, "device": str(session.device)}
    print(
        f"{arguments.model} on {session.device}: {len(session.model.stages)} stages, {len(images.tensor)} images in "
        f"batches of {batch_size}, traced in {result['trace_seconds']:.1f} s"
    )
    bench = Bench(session, bank, images.tensor, batch_size, arguments.cache_mib << 20)
    result["kinds"] = bench.kinds(arguments.rounds, arguments.bfloat16)
    space = resolve_space(load_space(arguments.space), session.traced.sites)
    result["streams"] = {}
    if arguments.run is not None:
        result["streams"]["run"] = bench.stream(recipes_of_run(arguments.run, space, arguments.proposals))
    else:
        stream = list(proposals(space, arguments.proposals, random.Random(arguments.seed)))
        result["streams"]["mutations"] = bench.stream(stream)
    result["options"] = bench.options(space, arguments.options, random.Random(arguments.seed))
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak resident memory {result['peak_rss_mib']:.0f} MiB")
    if arguments.json is not None:
        append_result(arguments.json, result)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--no-pretrained", action="store_true", help="random weights")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--space", default="vit_w2-8", help="of the proposals and options")
    parser.add_argument("--run", type=Path, help="a finished run: its model, images, space and recipes are used")
    parser.add_argument("--proposals", type=int, default=40, help="recipes in a stream")
    parser.add_argument("--options", type=int, default=40, help="single options that are timed; 0: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache-mib", type=int, default=1024)
    parser.add_argument("--bfloat16", action="store_true", help="time candidates under autocast too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="append the results to this file, one line")
    return parser.parse_args()


def take_over_settings_(arguments: argparse.Namespace) -> None:
    """What a run was made with takes the place of what was asked for."""
    record = json.loads((arguments.run / "run.json").read_text(encoding="utf-8"))
    settings = record["settings"]
    arguments.model, arguments.no_pretrained = settings["model"], not record["model"].get("pretrained", True)
    arguments.data, arguments.images = settings["data"], settings["calib_images"]
    arguments.space, arguments.seed = settings["space"], settings["seed"]


def recipes_of_run(directory: Path, space: ResolvedSpace, most: int) -> list[Recipe]:
    """The recipes of a finished run that its space can still make, in their order; the last ``most`` of them."""
    recipes: list[Recipe] = []
    for trial in load_trials(directory / "study.log", STUDY_NAME):
        try:
            recipes.append(space.sites_for(trial.params))
        except SpaceError:
            print(f"trial {trial.number} is not of space {space.name!r}: left out")
    return recipes[-most:]


def proposals(space: ResolvedSpace, count: int, rng: random.Random) -> Iterable[Recipe]:
    """What a hill climb proposes: now and then a better recipe is found, of which 1, 2, 4 or 8 decisions are changed.

    A recipe that costs about as much takes its parent's place in one of eight proposals.
    """
    best = space.uniform_assignment(4)
    recent = [best]
    for index in range(count):
        child = dict(rng.choice(recent[-3:]))
        for decision in rng.sample(space.decisions, min((1, 2, 4, 8)[index % 4], len(space.decisions))):
            child[decision.name] = rng.choice(decision.choices)
        if rng.random() < 1 / 8:
            recent.append(child)
        yield space.sites_for(child)


class Bench:
    """Timings on one model, bank and set of images."""

    def __init__(self, session: Session, bank: Bank, images: torch.Tensor, batch_size: int, cache_bytes: int) -> None:
        """Prepare; ``cache_bytes`` for the outputs of stages, where they are reused."""
        self._session, self._bank, self._images = session, bank, images
        self._batch_size, self._cache_bytes = batch_size, cache_bytes
        self._plain = self._evaluator(0)
        # Of its own, so that a full-precision pass leaves the slots as the last recipe has left them.
        self._empty = QuantizedModel(session.traced).to(session.device)

    def kinds(self, rounds: int, bfloat16: bool) -> dict[str, dict[str, float]]:
        """Kinds of recipes, every stage run, against full precision."""
        sites = self._session.traced.sites
        bits_only, widest = (resolve_space(load_space(name), sites) for name in ("bits_only", "vit_w2-8"))
        recipes: dict[str, Recipe] = {
            "uniform w8a8": bits_only.sites_for(bits_only.uniform_assignment(8)),
            "uniform w4a4": bits_only.sites_for(bits_only.uniform_assignment(4)),
            "w4a4, adalog": widest.sites_for(widest.uniform_assignment(4)),
            "w4a4, adalog, 8 groups": widest.sites_for(widest.uniform_assignment(4, 8)),
        }
        runs: dict[str, Callable[[], object]] = {
            name: partial(self._plain.evaluate, recipe) for name, recipe in recipes.items()
        }
        if bfloat16:
            half = self._evaluator(0, torch.bfloat16)
            runs["uniform w4a4, bfloat16"] = partial(half.evaluate, recipes["uniform w4a4"])
        for run in (self._eager, self._full_precision, *runs.values()):
            run()  # solves what is missing
        seconds: dict[str, list[float]] = {name: [] for name in ("full precision, eager", *runs)}
        ratios: dict[str, list[float]] = {name: [] for name in seconds}
        base: list[float] = []
        for _ in range(rounds):
            for name, run in {"full precision, eager": self._eager, **runs}.items():
                base.append(self._timed(self._full_precision))
                seconds[name].append(self._timed(run))
                ratios[name].append(seconds[name][-1] / base[-1])
        pass_seconds = statistics.median(base)
        print(f"\n{'every stage run':<26} {'s':>8} {'passes':>7} {'a pass over it':>15}")
        print(f"{'full precision':<26} {pass_seconds:8.3f} {1:7.2f} {1:15.2f}")
        found = {"full precision": {"seconds": pass_seconds, "passes": 1.0}}
        for name in seconds:
            passes, taken = statistics.median(ratios[name]), statistics.median(seconds[name])
            cost = format_bops(model_cost(sites, recipes[name]).bops) if name in recipes else ""
            print(f"{name:<26} {taken:8.3f} {passes:7.2f} {1 / passes:15.2f}   {cost}")
            found[name] = {"seconds": taken, "passes": passes}
        return found

    def stream(self, recipes: Iterable[Recipe]) -> dict[str, float]:
        """Recipes in a row, with and without what they share kept."""
        recipes = list(recipes)
        kept = self._evaluator(self._cache_bytes)
        totals = {"full precision": 0.0, "kept": 0.0, "not kept": 0.0, "apply": 0.0}
        for recipe in recipes:
            self._bank.apply_(recipe)  # solves what is missing, and quantizes weights
        before: Recipe = {}
        for recipe in recipes:
            runs: dict[str, Callable[[], object]] = {
                "kept": partial(kept.evaluate, recipe),
                "not kept": partial(self._plain.evaluate, recipe),
                "apply": partial(kept.apply, recipe),
            }
            for name, run in runs.items():
                self._bank.apply_(before)  # as it would be found
                if name != "apply":
                    totals["full precision"] += self._timed(self._full_precision)
                totals[name] += self._timed(run)
            before = recipe
        reuse, passes = kept.reuse, totals["full precision"] / 2
        found = {
            "recipes": len(recipes),
            "candidates_per_pass": passes / totals["kept"],
            "candidates_per_pass_without_reuse": passes / totals["not kept"],
            "reused_share": reuse.reused_share,
            "most_mib_held": reuse.most_bytes_held / 2**20,
            "apply_share": totals["apply"] / totals["kept"],
        }
        print(f"\n{len(recipes)} recipes as a search proposes them, in candidates evaluated per full-precision pass")
        print(
            f"with reuse {found['candidates_per_pass']:.2f}, without {found['candidates_per_pass_without_reuse']:.2f}"
        )
        print(f"stages not run {reuse.reused_share:.0%}; at most {found['most_mib_held']:.0f} MiB of outputs kept")
        print(f"putting quantizers into slots, weights included: {found['apply_share']:.1%} of an evaluation")
        return found

    def options(self, space: ResolvedSpace, sample: int, rng: random.Random) -> dict[str, float]:
        """What it takes to evaluate every option of every operand alone, in the order of the model."""
        operands = [(plan.site, plan.operand.name) for plan in space.plans]
        options = [(*key, config) for key in operands for config in space.options_for(*key)]
        # Whole operands, which are next to each other: single options would have nothing to share.
        chosen = options
        if 0 < sample < len(options):
            count = max(1, round(sample * len(operands) / len(options)))
            drawn = set(rng.sample(operands, min(count, len(operands))))
            chosen = [option for option in options if option[:2] in drawn]
        for option in chosen:
            self._bank.quantizer(*option)
        kept = self._evaluator(self._cache_bytes)
        for _ in range(2):
            kept.evaluate({})  # as in a sweep over all: what lies before an operand is there
        taken = passes = 0.0
        for site, operand, config in chosen:
            passes += self._timed(self._full_precision)
            taken += self._timed(partial(kept.evaluate, {site: {operand: config}}))
        each = taken / passes
        print(
            f"\n{len(chosen)} of {len(options)} options of single operands: {each:.2f} passes each, "
            f"{each * len(options):.0f} passes for all"
        )
        return {"options": len(options), "timed": len(chosen), "passes_each": each, "passes": each * len(options)}

    def _evaluator(self, cache_bytes: int, autocast: torch.dtype | None = None) -> Evaluator:
        return Evaluator(
            self._session.model, self._bank, self._images, self._batch_size, cache_bytes=cache_bytes, autocast=autocast
        )

    def _full_precision(self) -> None:
        """The traced model with all slots empty."""
        with torch.inference_mode():
            for batch in torch.split(self._images, self._batch_size):
                self._empty.run(batch)

    def _eager(self) -> None:
        """The untraced model over the same images in the same batches."""
        with torch.inference_mode():
            for batch in torch.split(self._images, self._batch_size):
                self._session.loaded.module(batch)

    def _timed(self, run: Callable[[], object]) -> float:
        def run_and_wait() -> None:
            run()
            if self._session.device.type == "cuda":
                torch.cuda.synchronize(self._session.device)

        return seconds_of(run_and_wait)


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
