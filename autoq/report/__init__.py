"""Tables, pictures and the page that show a run."""

from autoq.report.page import render_page
from autoq.report.plots import draw_pareto
from autoq.report.summary import Point, Reconstructed, RunSummary, SiteRow
from autoq.report.tables import pareto_csv, reconstructed_csv, trials_csv
from autoq.report.write import write_report

__all__ = [
    "Point",
    "Reconstructed",
    "RunSummary",
    "SiteRow",
    "draw_pareto",
    "pareto_csv",
    "reconstructed_csv",
    "render_page",
    "trials_csv",
    "write_report",
]
