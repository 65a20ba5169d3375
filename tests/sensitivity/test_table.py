"""The table of sensitivities, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoq.errors import RunDirectoryError, RunError
from autoq.recipe import OperandConfig
from autoq.sensitivity.table import COLUMNS, Sensitivity, SensitivityTable

configs = st.builds(
    OperandConfig,
    scheme=st.sampled_from(["uniform", "adalog", "instance_groups"]),
    bits=st.integers(1, 16),
    granularity=st.sampled_from(["tensor", "channel", "head", "group"]),
    symmetric=st.booleans(),
    groups=st.integers(1, 99),
    log_base_numerator=st.none() | st.integers(10, 137),
    overflow=st.sampled_from(["zero_code", "extra_zero"]),
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1)
rows = st.builds(
    Sensitivity, names, names, configs, st.floats(0, exclude_min=False, allow_infinity=True).map(abs), st.booleans()
)


@given(st.lists(rows, min_size=1))
def test_a_file_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, rows: list[Sensitivity]) -> None:
    path = tmp_path_factory.mktemp("table") / "sensitivity.csv"
    table = SensitivityTable("agreement", 128, tuple(rows))
    table.save(path)
    assert SensitivityTable.load(path) == table
    assert [found.name for found in path.parent.iterdir()] == ["sensitivity.csv"]


def test_the_file(tmp_path: Path) -> None:
    config = OperandConfig(scheme="adalog", bits=4)
    SensitivityTable("kl", 16, (Sensitivity("fc", "input", config, 0.1 + 0.2, measured=False),)).save(
        tmp_path / "t.csv"
    )
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "site,operand,scheme,bits,granularity,symmetric,groups,log_base_numerator,overflow,hadamard_block,"
        "loss,measured,proxy,images",
        "fc,input,adalog,4,tensor,false,1,,zero_code,1,0.30000000000000004,false,kl,16",
    ]


GOOD = "fc,input,uniform,4,tensor,false,1,,zero_code,1,0.5,true,kl,16"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["site,operand", "a,b"], "its columns are not site,operand,scheme"),
        ([], "its columns are not"),
        ([",".join(COLUMNS)], "it has no rows"),
        ([",".join(COLUMNS), GOOD, GOOD.replace("kl", "mse")], "it mixes proxies or images"),
        ([",".join(COLUMNS), GOOD, GOOD.replace("0.5", "much")], "line 3 cannot be read"),
        ([",".join(COLUMNS), GOOD.replace("0.5", "nan")], "line 2 cannot be read"),
        ([",".join(COLUMNS), GOOD.replace("0.5", "-1")], "line 2 cannot be read"),
        ([",".join(COLUMNS), GOOD.replace("true", "perhaps")], "line 2 cannot be read"),
        ([",".join(COLUMNS), GOOD.replace(",4,", ",40,")], "line 2 cannot be read"),
        ([",".join(COLUMNS), GOOD[:-8]], "line 2 cannot be read"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, lines: list[str], reason: str) -> None:
    path = tmp_path / "sensitivity.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(RunDirectoryError, match=r"is no table of sensitivities: .*; delete it") as caught:
        SensitivityTable.load(path)
    assert reason in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"cannot read .*absent"):
        SensitivityTable.load(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunDirectoryError, match="it is not UTF-8 text"):
        SensitivityTable.load(tmp_path / "binary")


def test_losses_by_option() -> None:
    four, five = (OperandConfig(scheme="uniform", bits=bits) for bits in (4, 5))
    table = SensitivityTable("kl", 16, (Sensitivity("fc", "input", four, 0.5), Sensitivity("fc", "input", five, 0.25)))
    assert (table.loss("fc", "input", four), table.loss("fc", "input", five)) == (0.5, 0.25)
    with pytest.raises(RunError, match=r"have no \{'scheme': 'uniform', 'bits': 4\} of fc:weight: measure them again"):
        table.loss("fc", "weight", four)


def test_it_covers_options_of_its_own_proxy() -> None:
    four, five = (OperandConfig(scheme="uniform", bits=bits) for bits in (4, 5))
    table = SensitivityTable("kl", 16, (Sensitivity("fc", "input", four, 0.5),))
    assert table.covers([("fc", "input", four)], "kl")
    assert table.covers([], "kl")
    assert not table.covers([("fc", "input", four)], "aph")
    assert not table.covers([("fc", "input", four), ("fc", "input", five)], "kl")
