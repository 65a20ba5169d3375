"""The study on disk: what a trial keeps, and what crashes, full disks and second processes do to it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoq.errors import RunDirectoryError, RunError
from autoq.optimization.storage import TrialStore, load_trials

CHOICES: dict[str, CategoricalDistribution] = {
    "blocks.0.attn.qkv:weight.bits": CategoricalDistribution((2, 3, 4)),
    "blocks.0.attn.av:lhs.log_base_numerator": CategoricalDistribution(("fit", 18, 37)),
}
WRITER = """
    import sys
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import create_trial
    from autoq.optimization.storage import TrialStore
    store = TrialStore.open(sys.argv[1], "search")
    choices = {f"p{i}": CategoricalDistribution((2, 3, 4)) for i in range(50)}
    for n in range(100_000):
        trial = create_trial(values=[n, 0.5], params=dict.fromkeys(choices, 2), distributions=choices)
        print(store.append(trial), flush=True)
"""


def make_trial(bops: float = 1e9, kl: float = 0.1, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    return create_trial(
        state=state,
        values=[bops, kl] if state == TrialState.COMPLETE else None,
        params=dict(zip(CHOICES, (3, "fit"), strict=True)),
        distributions=dict(CHOICES),
        user_attrs={"recipe": "ab12", "seconds": 0.5, "sites": {"head": {"weight": {"bits": 3}}}},
        system_attrs={"NSGAIISampler:generation": 0},
        constraints={"budget": bops - 5e8},
    )


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def test_a_trial_comes_back_whole_in_a_new_process(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    store = TrialStore.open(journal, "search")
    assert [store.append(make_trial(4e8)), store.append(make_trial(9e8, 0.01))] == [0, 1]
    assert store.append(make_trial(state=TrialState.FAIL)) == 2
    code = """
        import json, sys
        from autoq.optimization.storage import load_trials
        for t in load_trials(sys.argv[1], "search"):
            print(json.dumps([t.number, t.state.name, t.values, t.params, t.constraints, t.user_attrs, t.system_attrs]))
    """
    done = subprocess.run(python(code, journal), capture_output=True, text=True, check=True)
    first, second, failed = (json.loads(line) for line in done.stdout.splitlines())
    wanted = make_trial(4e8)
    assert first[:5] == [0, "COMPLETE", [4e8, 0.1], wanted.params, {"budget": -1e8}]
    assert first[5] == wanted.user_attrs
    assert first[6]["NSGAIISampler:generation"] == 0
    assert second[2] == [9e8, 0.01]
    assert failed[1:3] == ["FAIL", None]


def test_only_feasible_trials_are_best(tmp_path: Path) -> None:
    store = TrialStore.open(tmp_path / "study.log", "search")
    for bops, kl in ((4e8, 0.1), (9e8, 0.01), (4e8, 0.2)):
        store.append(make_trial(bops, kl))
    assert [trial.number for trial in store.study.best_trials] == [0]


def test_stored_trials_are_parents_of_the_next_generation(tmp_path: Path) -> None:
    store = TrialStore.open(tmp_path / "study.log", "search")
    for _ in range(4):
        store.append(make_trial(4e8))
    store.study.sampler = optuna.samplers.NSGAIISampler(
        population_size=4, seed=0, mutation_prob=0.0, crossover_prob=1.0
    )
    trial = store.study.ask(dict(CHOICES))
    assert trial.params == make_trial().params  # all parents are equal, and nothing mutates
    assert store.load_trials()[-1].system_attrs["NSGAIISampler:generation"] == 1


def test_reopening_continues(tmp_path: Path) -> None:
    for number in range(3):
        assert TrialStore.open(tmp_path / "study.log", "search").append(make_trial()) == number
    assert len(load_trials(tmp_path / "study.log", "search")) == 3


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert TrialStore.open("run/study.log", "search").append(make_trial()) == 0


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    TrialStore.open(tmp_path / "study.log", "search").append(make_trial())
    assert capfd.readouterr() == ("", "")


def test_unfinished_and_malformed_trials_are_refused(tmp_path: Path) -> None:
    store = TrialStore.open(tmp_path / "study.log", "search")
    with pytest.raises(ValueError, match="only finished"):
        store.append(create_trial(state=TrialState.RUNNING))
    with pytest.raises(ValueError, match="number of objectives"):
        store.append(create_trial(value=1.0))
    broken = make_trial()
    broken.user_attrs["recipe"] = object()
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.append(broken)
    assert store.append(make_trial()) == 0
    assert len(load_trials(tmp_path / "study.log", "search")) == 1


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    for acknowledged in (20, 45):  # the second round starts from what the first kill left
        with subprocess.Popen(python(WRITER, journal), stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            last = -1
            while last < acknowledged:
                last = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            last = int(([*writer.stdout.read().split("\n")[:-1]] or [last])[-1])
        numbers = [trial.number for trial in load_trials(journal, "search")]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in (last + 1, last + 2)  # the one in flight may have been written
    before = len(load_trials(journal, "search"))
    assert TrialStore.open(journal, "search").append(make_trial()) == before


@pytest.mark.parametrize("tail", [b'{"op_code":4,"study', b"\x00" * 100, b"\xc3"])
def test_a_torn_last_line_is_cut(tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    journal = tmp_path / "study.log"
    TrialStore.open(journal, "search").append(make_trial())
    whole = journal.read_bytes()
    journal.write_bytes(whole + tail)
    assert len(load_trials(journal, "search")) == 1
    assert journal.read_bytes() == whole + tail  # reading repairs nothing
    assert TrialStore.open(journal, "search").append(make_trial()) == 1
    assert journal.read_bytes().startswith(whole)
    assert f"dropped {len(tail)} bytes" in caplog.text
    assert len(load_trials(journal, "search")) == 2


def test_a_torn_first_line_is_cut(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    journal.write_bytes(b'{"op_co')
    assert TrialStore.open(journal, "search").append(make_trial()) == 0


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "thesis.txt"
    other.write_text("no newline at the end", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="no study journal"):
        TrialStore.open(other, "search")
    assert other.read_text(encoding="utf-8") == "no newline at the end"


def test_damage_in_the_middle_is_reported(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    TrialStore.open(journal, "search").append(make_trial())
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + b'{"op_code":4,\n' + lines[1])
    for reader in (lambda: load_trials(journal, "search"), lambda: TrialStore.open(journal, "search")):
        with pytest.raises(RunDirectoryError, match=r"is damaged .* move it away"):
            reader()


def test_missing_studies_are_reported_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="there is no study at"):
        load_trials(tmp_path / "study.log", "search")
    assert not (tmp_path / "study.log").exists()
    TrialStore.open(tmp_path / "study.log", "search")
    with pytest.raises(RunDirectoryError, match="holds no study 'other'"):
        load_trials(tmp_path / "study.log", "other")


def test_objectives_are_named_once(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    for _ in range(2):
        store = TrialStore.open(journal, "search", objectives=("bops", "kl_nats"))
        assert store.study.metric_names == ["bops", "kl_nats"]
    assert journal.read_text().count("kl_nats") == 1


def test_other_directions_are_refused(tmp_path: Path) -> None:
    TrialStore.open(tmp_path / "study.log", "search")
    with pytest.raises(RunDirectoryError, match="has directions"):
        TrialStore.open(tmp_path / "study.log", "search", ["minimize"])


def test_unusable_directories_are_reported(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"cannot write .*No such file"):
        TrialStore.open(tmp_path / "missing" / "study.log", "search")
    if os.geteuid() != 0:  # root may write anywhere
        tmp_path.chmod(0o555)
        with pytest.raises(RunDirectoryError, match=r"cannot write .*Permission denied"):
            TrialStore.open(tmp_path / "study.log", "search")
        tmp_path.chmod(0o755)


def test_a_full_disk_loses_one_trial_and_no_more(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    store = TrialStore.open(journal, "search")
    store.append(make_trial())
    whole = journal.read_bytes()
    # A limit on the size of files stands in for the disk: the kernel writes what fits, then refuses.
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, limits[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write a trial to .*File too large"):
            store.append(make_trial())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert journal.read_bytes() == whole
    assert store.append(make_trial()) == 1
    assert len(load_trials(journal, "search")) == 2
