"""What an experiment leaves behind: resumable scores, reports, figures and a summary."""

from jaxnas.runs.progress import track
from jaxnas.runs.report import Plot, Report, Table, Text, save, to_html, to_text
from jaxnas.runs.store import ScoreRow, ScoreStore
from jaxnas.runs.summary import Meter, Usage, write_summary
from jaxnas.runs.tables import Svg

__all__ = [
    "Meter",
    "Plot",
    "Report",
    "ScoreRow",
    "ScoreStore",
    "Svg",
    "Table",
    "Text",
    "Usage",
    "save",
    "to_html",
    "to_text",
    "track",
    "write_summary",
]
