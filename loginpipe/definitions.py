"""What Dagster loads: ``workspace.yaml`` and ``-m loginpipe.definitions`` find `defs` here."""

from loginpipe.collector import imports_that_stay, leave_all_at_exit

with imports_that_stay():
    from loginpipe.assembly import build_definitions
    from loginpipe.ops.logs import configure_logs
    from loginpipe.settings import load_settings

__all__ = ["build_definitions", "defs"]

configure_logs(load_settings())
leave_all_at_exit()
defs = build_definitions()
