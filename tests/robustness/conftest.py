"""The robustness tests use the run of the report's tests."""

from tests.report.conftest import new_run, run_dir

__all__ = ["new_run", "run_dir"]
