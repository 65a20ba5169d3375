"""What a recipe costs: closed forms over sites and operand configurations."""

from autoq.cost.bops import ModelCost, SiteCost, model_cost, site_cost, uniform_bops
from autoq.cost.budget import Budget
from autoq.cost.size import weight_bytes

__all__ = ["Budget", "ModelCost", "SiteCost", "model_cost", "site_cost", "uniform_bops", "weight_bytes"]
