"""What an experiment leaves behind: resumable scores, reports, figures and a summary."""

from jaxnas.runs.correlations import correlation_table
from jaxnas.runs.json_cache import JsonCache
from jaxnas.runs.progress import scalar_writer, track
from jaxnas.runs.report import Part, Plot, Report, Table, Text, Winner, save, to_html, to_text
from jaxnas.runs.store import ScoreRow, ScoreStore
from jaxnas.runs.summary import Meter, Usage, run_context, write_summary
from jaxnas.runs.tables import Svg

__all__ = [
    "JsonCache",
    "Meter",
    "Part",
    "Plot",
    "Report",
    "ScoreRow",
    "ScoreStore",
    "Svg",
    "Table",
    "Text",
    "Usage",
    "Winner",
    "correlation_table",
    "run_context",
    "save",
    "scalar_writer",
    "to_html",
    "to_text",
    "track",
    "write_summary",
]
