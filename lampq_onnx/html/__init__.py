"""Reports as one HTML file that opens offline: everything it needs is inside, and it may fetch nothing."""

from lampq_onnx.html.report import report_page, write_report

__all__ = ["report_page", "write_report"]
