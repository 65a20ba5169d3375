"""Workers of a search: rebuilt from settings and the run directory, and compared with what the driver has."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from autoq.calibration import Bank
from autoq.errors import WorkerRefusedError
from autoq.files import atomic_path, sha256_hex
from autoq.identity import describe_changes
from autoq.models import load_model, modules_to_load
from autoq.optimization.executors import EXECUTORS
from autoq.optimization.executors._base import BaseExecutor, ExecutorContext, Worker
from autoq.optimization.objective import Evaluation, JointObjective, KeepGoing, Objective
from autoq.recipe import SiteConfig
from autoq.runs.images import CalibrationImages, most_held_out
from autoq.runs.opening import GivenObjects, RunInputs, open_bank
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.settings import SearchSettings
from autoq.runs.search.state import SearchState
from autoq.runs.session import Session
from autoq.version import __version__


@dataclass(frozen=True)
class SearchWorkerSpecification:
    """What a worker of a search is rebuilt from.

    Attributes:
        settings: of the search.
        folder: absolute path of the run directory, with the bank.
        fingerprints: what the driver has: weights, trace, images, bank, code, device type.
        threads: that PyTorch gets; None: as many as it takes.
    """

    settings: SearchSettings
    folder: str
    fingerprints: Mapping[str, str]
    threads: int | None = None

    @classmethod
    def of(
        cls,
        settings: SearchSettings,
        folder: str | os.PathLike[str],
        session: Session,
        images: tuple[CalibrationImages, CalibrationImages],
        bank: Bank,
        threads: int | None,
    ) -> SearchWorkerSpecification:
        """Describe what the driver has, and leave the trace of the model in the run directory.

        Args:
            settings: of the search.
            folder: the run directory, in which the bank is, or will be, saved.
            session: the model as it was loaded.
            images: that calibrate, and that score.
            bank: of the model.
            threads: that PyTorch gets in each worker.
        """
        trace = session.dump_trace()
        with atomic_path(SearchDirectory(folder).trace) as temporary:
            temporary.write_bytes(trace)
        found = _fingerprints(session, images, bank) | {"trace_sha256": sha256_hex([trace])}
        return cls(settings, os.fspath(Path(folder).absolute()), found, threads)

    def build(self, slot: int) -> Worker:
        """Load the model, the images and the bank, and compare them with what the driver has.

        Args:
            slot: number of the worker on its machine; of several GPUs each takes the next.

        Raises:
            WorkerRefusedError: they differ; the message says in what.
            FileNotFoundError: the search is over, and its trace removed.
            InputError: they cannot be loaded.
        """
        shared = None if self.threads is None else self.threads * self.settings.workers
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self._refuse(_code())
        settings = self.settings.model_copy(update={"device": _device_of(self.settings.device, slot)})
        folder = SearchDirectory(self.folder)
        given = GivenObjects(session=self._session(settings, folder))
        session = given.open_session(settings)
        count = settings.calib_images
        loaded = given.calibration_images(session, settings, count, spare=most_held_out(count))
        images = loaded.held_out(count)
        opened = session
        session, bank = open_bank(session, images[0], settings, folder.bank, is_checked=True)
        self._refuse(_fingerprints(session, images, bank))
        required = settings.eval_data is not None
        state = SearchState(
            session=session,
            loaded=replace(opened, task=session.task),
            bank=bank,
            images=images[0],
            scoring=images[1],
            open_labelled=lambda: given.labelled_images(opened, settings.labelled_data, required),
            load_images=lambda wanted, spare: given.calibration_images(opened, settings, wanted, spare=spare),
            directory=folder,
            threads=shared,
        )
        name, hardware = f"{socket.gethostname()}:{os.getpid()}", _hardware(session.device)
        return Worker(_BankedObjective(state, settings.proxy), name, hardware, state)

    def _session(self, settings: SearchSettings, folder: SearchDirectory) -> Session:
        """Load the model, and take over the driver's trace of it.

        Raises:
            FileNotFoundError: there is none: the search is over.
        """
        loaded = load_model(settings.model, settings.pretrained)
        self._refuse({"weights_sha256": loaded.weights_sha256})
        trace = folder.trace.read_bytes()
        self._refuse({"trace_sha256": sha256_hex([trace])})
        return Session.rebuilt(loaded, trace, settings.pretrained, settings.device)

    def _refuse(self, found: Mapping[str, str]) -> None:
        wanted = {name: value for name, value in self.fingerprints.items() if name in found}
        if changes := describe_changes(wanted, found):
            raise WorkerRefusedError(
                f"worker {socket.gethostname()}:{os.getpid()} does not have what the driver has: {changes}; give it "
                "the same software and data"
            )


def executor_of_workers(
    settings: SearchSettings,
    directory: SearchDirectory,
    inputs: RunInputs,
    loaded: Session,
    bank: Bank,
    objective: Objective,
    threads: int,
) -> BaseExecutor:
    """Save bank and trace, and return the executor of the settings, with workers that are rebuilt from them.

    Args:
        settings: of the search.
        directory: of the run.
        inputs: images.
        loaded: the model, before anything was folded into its weights.
        bank: of the model.
        objective: the driver's own.
        threads: of each worker, where those on this machine share its cores.
    """
    entry = EXECUTORS[settings.executor_name]
    bank.save(directory.bank)
    images = (inputs.images, inputs.scoring)
    each = threads if entry.divides_cores else None
    specification = SearchWorkerSpecification.of(settings, directory.path, loaded, images, bank, each)
    context = ExecutorContext(
        objective,
        specification,
        settings.workers,
        directory.path,
        settings.address,
        uses_gpus=loaded.device.type == "cuda",
    )
    return entry.make(context)


def modules_of_workers(settings: SearchSettings) -> tuple[str, ...]:
    """List the modules that workers of a search take long to import, for ``ExecutorEntry.prepare``."""
    return (__name__, *modules_to_load(settings.model))


class _BankedObjective:
    """Measures recipes with what the driver has solved."""

    def __init__(self, state: SearchState, proxy: str) -> None:
        self._state, self._proxy = state, proxy

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        self._state.require_sites(sites)
        return JointObjective(self._state.evaluator, self._proxy)(sites, keep_going)


def _fingerprints(session: Session, images: tuple[CalibrationImages, CalibrationImages], bank: Bank) -> dict[str, str]:
    """Return what two processes have to agree in, if the same recipe is to have the same score."""
    return {
        **_code(),
        "device_type": session.device.type,
        "weights_sha256": session.loaded.weights_sha256,
        "images_sha256": images[0].sha256,
        "scoring_sha256": images[1].sha256,
        "bank_fingerprint": bank.fingerprint,
    }


@cache
def _code() -> dict[str, str]:
    """Return the versions that scores depend on, and a hash of this package's source."""
    package = Path(__file__).parents[2]
    files = sorted(package.rglob("*.py"))
    named = (part for file in files for part in (file.relative_to(package).as_posix().encode(), file.read_bytes()))
    return {"autoq": __version__, "torch": torch.__version__, "source_sha256": sha256_hex(named)}


def _device_of(device: str, slot: int) -> str:
    """Give each worker a GPU of its own, where the settings do not name one."""
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return f"cuda:{slot % count}" if count > 1 else device


def _hardware(device: torch.device) -> str:
    """Name what scores may depend on in their last bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
