"""What Dagster loads: ``workspace.yaml`` and ``-m loginpipe.definitions`` find `defs` here."""

from loginpipe.common.gc_tuning import imports_that_stay, leave_all_at_exit

with imports_that_stay():
    from loginpipe.common.logs import configure_logs
    from loginpipe.common.settings import load_settings
    from loginpipe.defs.assembly import build_definitions

__all__ = ["build_definitions", "defs"]

configure_logs(load_settings())
leave_all_at_exit()
defs = build_definitions()
