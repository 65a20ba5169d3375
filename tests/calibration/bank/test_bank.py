"""The bank: solved once, kept, written and read."""

from __future__ import annotations

import errno
from collections import Counter
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autoq.calibration import Bank, CalibrationSettings
from autoq.calibration.bank import solving
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.second_order.gram import capture_grams
from autoq.errors import RunDirectoryError
from autoq.graph.insert import FixedTensor, QuantizedModel
from autoq.quantizers import QUANTIZERS, BaseQuantizer, OperandLayout, UniformQuantizer
from autoq.quantizers._affine import choose_affine_qparams
from autoq.recipe import OperandConfig
from autoq.tasks import CLASSIFICATION, DenseTask
from tests.calibration.samples import block_model, images, key_of

SETTINGS = CalibrationSettings()
SECOND_ORDER = CalibrationSettings(second_order=True)
DESCRIPTION = {"weights_sha256": "abc", "images_sha256": "def"}


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return block_model()


@pytest.fixture
def bank(model: QuantizedModel) -> Bank:
    return Bank(model, images(16), SETTINGS, DESCRIPTION)


def uniform(bits: int = 4, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "uniform", "bits": bits} | fields)


def every_option(model: QuantizedModel) -> list[tuple[str, str, OperandConfig]]:
    options = []
    for site, operand in model.traced.operands():
        if not site.macs:
            continue
        options.append((site.name, operand.name, uniform(granularity="channel" if operand.is_weight else "tensor")))
        if operand.producer in ("softmax", "gelu"):
            options.append((site.name, operand.name, OperandConfig(scheme="adalog", bits=4)))
        elif operand.layout.instance_group_axis is not None:
            options.append((site.name, operand.name, OperandConfig(scheme="instance_groups", bits=4, groups=3)))
    return options


def assert_equal(left: BaseQuantizer, right: BaseQuantizer) -> None:
    assert left.config == right.config
    for name, value in left.qparams().items():
        assert torch.equal(value, right.qparams()[name])


def test_options_are_solved_once_and_when_needed(model: QuantizedModel) -> None:
    calls = []

    def provide() -> Tensor:
        calls.append(1)
        return images(16)

    bank = Bank(model, provide, SETTINGS, DESCRIPTION)
    bank.quantizer("fc1", "weight", uniform(granularity="channel"))
    assert not calls
    first = bank.quantizer("fc1", "input", uniform())
    assert bank.quantizer("fc1", "input", uniform()) is first
    bank.quantizer("qkv", "input", uniform())
    assert len(calls) == 1
    assert len(bank) == 3


def test_solving_ahead_goes_operand_by_operand(bank: Bank, model: QuantizedModel) -> None:
    options = every_option(model)
    bank.quantizer(*options[0])
    seen: list[tuple[int, int]] = []
    bank.solve_all([*options, *options], lambda done, total: seen.append((done, total)))
    by_operand = Counter(option[:2] for option in options[1:])
    assert len(by_operand) < len(options) - 1
    assert seen == [(done, len(options) - 1) for done in accumulate(by_operand.values())]
    assert len(bank) == len(options)


@pytest.mark.parametrize("workers", [1, 3])
def test_order_of_solving_does_not_matter(model: QuantizedModel, bank: Bank, workers: int) -> None:
    options = [
        (*key_of(model, producer), OperandConfig.model_validate({"scheme": scheme, "bits": bits} | fields))
        for producer, scheme, fields in (
            ("gelu", "adalog", {}),
            ("gelu", "adalog", {"log_base_numerator": 37}),
            ("layer_norm", "instance_groups", {"groups": 2}),
            ("layer_norm", "instance_groups", {"groups": 4}),
        )
        for bits in (2, 4, 8)
    ]
    backwards = Bank(model, images(16), SETTINGS, DESCRIPTION)
    threads = torch.get_num_threads()
    bank.solve_all(options, workers=workers)
    backwards.solve_all(reversed(options), workers=1)
    assert torch.get_num_threads() == threads
    for option in options:
        assert_equal(bank.quantizer(*option), backwards.quantizer(*option))


def test_modules_fill_the_slots(bank: Bank, model: QuantizedModel) -> None:
    recipe = {"fc1": {"weight": uniform(8, granularity="channel"), "input": uniform(8)}}
    model.slots["fc2", "input"].quantizer = nn.Identity()
    bank.apply_(recipe)
    assert model.slots["fc2", "input"].quantizer is None
    fixed = model.slots["fc1", "weight"].quantizer
    assert isinstance(fixed, FixedTensor)
    quantizer = bank.quantizer("fc1", "weight", recipe["fc1"]["weight"])
    assert torch.equal(fixed.value, quantizer(model.traced.weight("fc1")))
    assert isinstance(model.slots["fc1", "input"].quantizer, BaseQuantizer)
    with torch.no_grad():
        (quantized,) = model.run(images(4))
        model.remove_()
        (full,) = model.run(images(4))
    assert not torch.equal(full, quantized)
    torch.testing.assert_close(full, quantized, rtol=0.1, atol=0.5)


def test_fitted_bases_are_written_out(bank: Bank, model: QuantizedModel, tmp_path: Path) -> None:
    site, operand = key_of(model, "softmax")
    recipe = {site: {operand: OperandConfig(scheme="adalog", bits=3)}, "fc1": {"input": uniform()}}
    resolved = bank.resolve(recipe)
    fitted = bank.quantizer(site, operand, recipe[site][operand]).qparams()
    assert resolved[site][operand].log_base_numerator == int(fitted["log_base_numerator"])
    assert resolved["fc1"] == recipe["fc1"]
    assert bank.resolve(resolved) == resolved
    explicit = bank.quantizer(site, operand, resolved[site][operand]).qparams()
    assert all(torch.equal(explicit[name], fitted[name]) for name in fitted)
    bank.save(tmp_path)
    other = Bank(model, _unavailable, SETTINGS, DESCRIPTION)
    assert other.load(tmp_path)
    assert_equal(
        other.quantizer(site, operand, resolved[site][operand]), bank.quantizer(site, operand, resolved[site][operand])
    )


def _unavailable() -> Tensor:
    raise AssertionError("images are not needed")


def test_round_trip_is_bit_equal(bank: Bank, model: QuantizedModel, tmp_path: Path) -> None:
    options = every_option(model)
    bank.solve_all(options)
    bank.save(tmp_path / "run" / "bank")
    loaded = Bank(model, images(16), SETTINGS, DESCRIPTION)
    assert loaded.load(tmp_path / "run" / "bank")
    assert len(loaded) == len(bank)
    for option in options:
        assert_equal(bank.quantizer(*option), loaded.quantizer(*option))
    extra = loaded.quantizer("fc1", "input", uniform(7))  # not in the file: solved
    assert_equal(extra, bank.quantizer("fc1", "input", uniform(7)))
    assert len(loaded) == len(options) + 1


def test_saving_nothing_new_writes_nothing(bank: Bank, tmp_path: Path) -> None:
    bank.save(tmp_path)
    assert not list(tmp_path.iterdir())
    bank.quantizer("fc1", "input", uniform())
    bank.save(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"bank.json", "bank.safetensors"}
    (tmp_path / "bank.json").unlink()
    bank.save(tmp_path)
    assert not (tmp_path / "bank.json").exists()


@pytest.mark.parametrize(
    ("settings", "description", "message"),
    [
        (SETTINGS, DESCRIPTION | {"images_sha256": "other"}, r"images_sha256 \(was 'def', is 'other'\)"),
        (
            CalibrationSettings(observer="min_max"),
            DESCRIPTION,
            r"differs in settings\.observer \(was 'mse', is 'min_max'\)",
        ),
        (SETTINGS, {"weights_sha256": "abc"}, r"images_sha256 \(was 'def', is None\)"),
    ],
)
def test_stale_banks_are_refused(
    bank: Bank,
    model: QuantizedModel,
    tmp_path: Path,
    settings: CalibrationSettings,
    description: dict[str, str],
    message: str,
) -> None:
    bank.quantizer("fc1", "input", uniform())
    bank.save(tmp_path)
    other = Bank(model, _unavailable, settings, description)
    assert other.fingerprint != bank.fingerprint
    with pytest.raises(RunDirectoryError, match=message):
        other.load(tmp_path)


def test_a_bank_of_weighted_errors_is_of_its_task(model: QuantizedModel) -> None:
    """As gradients depend on what the output means; the same parameters are solved without weights, whatever it is."""
    weighted = CalibrationSettings(observer="fpcs", fpcs=FpcsSettings(output_weights="gradients"))
    with torch.no_grad():
        dense = DenseTask().fitted([model.run(images(8))])
    for settings, depends in (
        (weighted, True),
        (CalibrationSettings(observer="fpcs"), False),
        (CalibrationSettings(observer="mse", fpcs=weighted.fpcs), False),
    ):
        banks = [Bank(model, images(8), settings, DESCRIPTION, task=task) for task in (CLASSIFICATION, dense)]
        assert (banks[0].fingerprint != banks[1].fingerprint) == depends
        if depends:
            scales = [bank.quantizer("fc1", "weight", uniform(3)).qparams()["scale"] for bank in banks]
            assert not torch.equal(*scales)


def test_tuples_in_the_description_are_not_stale(model: QuantizedModel, tmp_path: Path) -> None:
    for is_saved in (False, True):
        bank = Bank(model, _unavailable, SETTINGS, {"input_size": (3, 32, 32)})
        assert bank.load(tmp_path) is is_saved
        bank.quantizer("fc1", "weight", uniform())
        bank.save(tmp_path)


def test_nothing_there_is_no_bank(bank: Bank, tmp_path: Path) -> None:
    assert not bank.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert not bank.load(tmp_path / "file")


def test_full_disk_leaves_the_old_bank(
    bank: Bank, model: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.quantizer("fc1", "input", uniform())
    bank.save(tmp_path)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    bank.quantizer("fc1", "input", uniform(5))

    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            bank.save(tmp_path)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    bank.save(tmp_path)  # there is space again
    other = Bank(model, _unavailable, SETTINGS, DESCRIPTION)
    assert other.load(tmp_path)
    assert len(other) == 2


def second_order_bank(model: QuantizedModel) -> Bank:
    return Bank(model, images(16), SECOND_ORDER, DESCRIPTION)


def test_second_order_weights_take_the_place_of_the_nearest(bank: Bank, model: QuantizedModel) -> None:
    """The grid is that of rounding to nearest; the layer's output has less error on the calibration images."""
    other, option = second_order_bank(model), ("fc1", "weight", uniform(5, granularity="channel"))
    assert other.fingerprint != bank.fingerprint
    assert_equal(other.quantizer(*option), bank.quantizer(*option))
    assert bank.codes(*option) is None
    assert other.codes("fc1", "input", uniform()) is None
    codes, weight = other.codes(*option), model.traced.weight("fc1")
    assert codes is not None
    fixed = other.module(*option)
    assert isinstance(fixed, FixedTensor)
    assert torch.equal(fixed.value, other.quantizer(*option).dequantize(codes))
    gram = capture_grams(model, [images(16)], ["fc1"])["fc1"]
    errors = [
        float((((each.value - weight) @ gram) * (each.value - weight)).sum())
        for each in (fixed, bank.module(*option))
        if isinstance(each, FixedTensor)
    ]
    assert errors[0] < errors[1]


def test_codes_are_packed_into_the_banks_file(model: QuantizedModel, tmp_path: Path) -> None:
    bank = second_order_bank(model)
    options = [("fc2", "weight", uniform(bits, granularity="channel")) for bits in (2, 3)]
    options += [("fc1", "input", uniform()), ("fc1", "weight", uniform(12, granularity="channel"))]
    bank.solve_all(options)
    bank.save(tmp_path)
    with safe_open(tmp_path / "bank.safetensors", "pt") as file:
        packed = {name: file.get_tensor(name) for name in file.keys() if name.endswith(".codes")}  # noqa: SIM118
    elements = model.traced.weight("fc2").numel()
    assert sorted(each.numel() for each in packed.values()) == [elements * 2 // 8, elements * 3 // 8]
    loaded = Bank(model, _unavailable, SECOND_ORDER, DESCRIPTION)
    assert loaded.load(tmp_path)
    for option in options:
        codes, again = bank.codes(*option), loaded.codes(*option)
        assert (codes is None) == (again is None) == (option not in options[:2])
        assert codes is None or again is None or torch.equal(codes, again)
    for option in options[:2]:
        before, after = bank.module(*option), loaded.module(*option)
        assert isinstance(before, FixedTensor)
        assert isinstance(after, FixedTensor)
        assert torch.equal(before.value, after.value)


def test_codes_of_another_length_are_solved_again(
    model: QuantizedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bank, option = second_order_bank(model), ("fc1", "weight", uniform(3, granularity="channel"))
    codes = bank.codes(*option)
    bank.save(tmp_path)
    with safe_open(tmp_path / "bank.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors | {"0.codes": tensors["0.codes"][:-1].clone()}, tmp_path / "bank.safetensors", metadata)
    again = second_order_bank(model)
    assert not again.load(tmp_path)
    assert "cannot be used and is solved again: codes of fc1:weight take 48 bytes, not (47,)" in caplog.text
    found = again.codes(*option)
    assert codes is not None
    assert found is not None
    assert torch.equal(codes, found)


@pytest.mark.parametrize("observer", ["mse", "fpcs"])
@pytest.mark.parametrize("gram_bytes", [0, 1 << 20])
def test_codes_do_not_depend_on_what_else_is_solved(
    model: QuantizedModel, monkeypatch: pytest.MonkeyPatch, gram_bytes: int, observer: str
) -> None:
    """One after the other, all together, side by side, or a layer at a time where memory is short."""
    settings = CalibrationSettings(observer=observer, second_order=True, fpcs=FpcsSettings(rounds=0))
    options = [
        (site, "weight", uniform(bits, granularity="channel")) for site in ("qkv", "fc1", "fc2") for bits in (2, 4)
    ]
    options.append(("fc1", "input", uniform()))
    alone, together = (Bank(model, images(16), settings, DESCRIPTION) for _ in range(2))
    monkeypatch.setattr(solving, "_GRAM_BYTES", gram_bytes)
    together.solve_all(options, workers=2)
    monkeypatch.undo()
    for option in reversed(options):
        codes, expected = together.codes(*option), alone.codes(*option)
        assert (codes is None) == (expected is None) == (option[1] == "input")
        assert codes is None or expected is None or torch.equal(codes, expected)


def test_what_is_written_out_keeps_its_codes(model: QuantizedModel) -> None:
    """A scheme of someone else's: affine, with a field that calibration fits."""

    class Fitted(UniformQuantizer):
        scheme = "fitted"
        qparam_names = ("scale", "zero_point", "log_base_numerator")
        fitted_fields = ("log_base_numerator",)
        config_fields = ("granularity", "log_base_numerator")

        @classmethod
        def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Fitted:
            scale, zero_point = choose_affine_qparams(lower, upper, config.bits, include_zero=True)
            base = torch.tensor(config.log_base_numerator or 20)
            return cls(config, layout, {"scale": scale, "zero_point": zero_point, "log_base_numerator": base})

    QUANTIZERS.register("fitted", Fitted)
    try:
        bank = Bank(model, images(16), CalibrationSettings(observer="min_max", second_order=True), DESCRIPTION)
        config = OperandConfig(scheme="fitted", bits=3, granularity="channel")
        resolved = bank.resolve({"fc1": {"weight": config}})["fc1"]["weight"]
        assert resolved.log_base_numerator == 20
        codes, kept = bank.codes("fc1", "weight", config), bank.codes("fc1", "weight", resolved)
    finally:
        QUANTIZERS.unregister("fitted")
    assert codes is not None
    assert kept is not None
    assert torch.equal(codes, kept)
