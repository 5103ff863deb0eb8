"""Reports as one HTML file that opens offline: everything is inside, and nothing is fetched."""

from lampq_onnx.html.report import report_page, write_report

__all__ = ["report_page", "write_report"]
