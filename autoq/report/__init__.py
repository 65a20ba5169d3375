"""Tables, pictures and the page that show a run."""

from autoq.report.page import render_page
from autoq.report.plots import draw_pareto
from autoq.report.points import Improved, Point
from autoq.report.summary import RunSummary, SiteRow
from autoq.report.tables import improved_csv, pareto_csv, trials_csv
from autoq.report.write import write_report

__all__ = [
    "Improved",
    "Point",
    "RunSummary",
    "SiteRow",
    "draw_pareto",
    "improved_csv",
    "pareto_csv",
    "render_page",
    "trials_csv",
    "write_report",
]
