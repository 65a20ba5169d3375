"""From a few hundred images to the quantizer parameters of every operand and option: the bank."""

from autoq.calibration.bank.bank import Bank
from autoq.calibration.capture import capture
from autoq.calibration.observers import OBSERVERS
from autoq.calibration.recording import OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers import solve

__all__ = ["OBSERVERS", "Bank", "CalibrationSettings", "OperandSample", "capture", "solve"]
