"""The next version of loginpipe: a migration more than this one, with a new field as in CONTRIBUTING.md."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING

import pytest

from loginpipe.postgres import migrate

if TYPE_CHECKING:
    from alembic.config import Config

VERSIONS = Path(migrate.__file__).parent / "migrations" / "versions"
REVISION = f"{int(migrate.HEAD) + 1:04}"

MIGRATION = f'''
from pathlib import Path

from loginpipe.common.errors import SchemaError
from loginpipe.postgres.migrations import driver_connection, run_sql_file

revision, down_revision = "{REVISION}", "{migrate.HEAD}"


def upgrade():
    run_sql_file(Path(__file__).with_suffix(".sql"))


def downgrade():
    with driver_connection().cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM loginpipe.login_extras WHERE region IS NOT NULL)")
        if cursor.fetchone() == (True,):
            raise SchemaError("{REVISION} is not undone: logins have a region, and no other place has it")
    run_sql_file(Path(__file__).with_name("{REVISION}_region_undo.sql"))
'''

# The comment and the LIKE show that SQL reaches the server as it is.
UPGRADE = """
-- 100 % of the columns: at the end, as :region.
ALTER TABLE public.user_logins ADD COLUMN IF NOT EXISTS region varchar(32);
ALTER TABLE loginpipe.login_extras ADD COLUMN region varchar(32);
CREATE TABLE loginpipe.regions (
    region varchar(32) PRIMARY KEY CHECK (region LIKE '__%')
);
INSERT INTO loginpipe.regions VALUES ('DE');
GRANT SELECT (region) ON loginpipe.login_extras TO loginpipe_analyst;
"""

UNDO = """
ALTER TABLE public.user_logins DROP COLUMN region;
ALTER TABLE loginpipe.login_extras DROP COLUMN region;
DROP TABLE loginpipe.regions;
"""


@contextmanager
def next_version(folder: Path) -> Iterator[str]:
    """Be the next version of loginpipe for a ``with`` block; yield its newest revision.

    Args:
        folder: does not exist yet. Its migration is written there, beside copies of those of this version.
    """
    copytree(VERSIONS, folder)
    (folder / f"{REVISION}_region.py").write_text(MIGRATION)
    (folder / f"{REVISION}_region.sql").write_text(UPGRADE)
    (folder / f"{REVISION}_region_undo.sql").write_text(UNDO)
    config_of_today = migrate.alembic_config

    def alembic_config() -> "Config":
        config = config_of_today()
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", str(folder))
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "HEAD", REVISION)
        patch.setattr(migrate, "alembic_config", alembic_config)
        yield REVISION
