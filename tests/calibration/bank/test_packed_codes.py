"""Codes packed to their width."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration.bank.packed_codes import count_bytes, pack_codes, unpack_codes


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(5, 7, 3), (8,), (1, 1), (2, 12)])
def test_codes_come_back_from_as_many_bits(bits: int, shape: tuple[int, ...]) -> None:
    codes = torch.randint(2**bits, shape, generator=torch.Generator().manual_seed(bits))
    codes.view(-1)[0] = 2**bits - 1
    packed = pack_codes(codes, bits)
    assert packed.shape == (count_bytes(bits, shape),) == (-(-codes.numel() // 8) * bits,)
    unpacked = unpack_codes(packed, bits, shape)
    assert unpacked.dtype == torch.uint8
    assert torch.equal(unpacked.long(), codes)


def test_bits_lie_one_after_the_other() -> None:
    codes = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
    assert pack_codes(codes, 3).tolist() == [0b001_010_01, 0b1_100_101_1, 0b10_111_000]


def test_bytes_that_hold_something_else_are_refused() -> None:
    packed = pack_codes(torch.zeros(16), 4)
    with pytest.raises(ValueError, match="does not hold 17 codes of 4 bits"):
        unpack_codes(packed, 4, (17,))
    with pytest.raises(ValueError, match="does not hold 16 codes of 4 bits"):
        unpack_codes(packed.int(), 4, (16,))
