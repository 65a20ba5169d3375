"""How far a recipe's predictions are from full precision, and how accurate they are."""

from autoq.scoring.accuracy import measure_accuracy
from autoq.scoring.discrepancy import Discrepancy, Score
from autoq.scoring.evaluator import Evaluator, choose_batch_size

__all__ = ["Discrepancy", "Evaluator", "Score", "choose_batch_size", "measure_accuracy"]
