"""The link from a task in Airflow to the report of its stage."""

from typing import Any
from urllib.parse import urlsplit

import store_paths
from airflow.configuration import conf
from airflow.sdk import BaseOperator, BaseOperatorLink


def address_of(report: str) -> str:
    """Address within Airflow of a report of the store, empty if it is not one."""
    if not store_paths.parse(report):
        return ""
    prefix = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")  # of Airflow behind a proxy
    # The page /plugin/reports shows the following address in its frame.
    return f"{prefix}/plugin/reports{prefix}/reports/{report.removeprefix('/artifacts/')}"


class ReportLink(BaseOperatorLink):
    """Opens the report of a stage inside Airflow, where `images/airflow/plugins/reports.py` serves it.

    Airflow asks the worker for the address at the end of a task, after success or failure, and keeps it.
    """

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002 (the form that Airflow wants)
        """Address of the report, empty if the task made none."""
        return address_of(getattr(operator, "report", ""))
