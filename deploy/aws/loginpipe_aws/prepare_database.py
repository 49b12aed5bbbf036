"""Create databases and logins on a new RDS instance, or set the logins' passwords to the current ones of their secrets.

A one-off task (`loginpipe_aws.setup`) has this text as its command, and runs it in the image as the administrator of
the instance. So it uses only psycopg2 and the environment: PGHOST, PGUSER and PGPASSWORD to connect, and
OWNER_PASSWORD, PIPELINE_PASSWORD and DAGSTER_PASSWORD for the logins. Run it again after a password changes.
"""

import os
import sys

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

GROUPS = ("loginpipe_writer", "loginpipe_analyst", "pii_custodian", "pii_auditor")
LOGINS = {"loginpipe": "OWNER_PASSWORD", "dagster": "DAGSTER_PASSWORD", "loginpipe_pipeline": "PIPELINE_PASSWORD"}
DATABASES = {"loginpipe": "loginpipe", "dagster": "dagster"}


def main() -> None:
    """Create what the tasks need; keep what exists already."""
    connection = psycopg2.connect(dbname="postgres", connect_timeout=10)
    # CREATE DATABASE is not allowed in a transaction.
    connection.autocommit = True
    with connection.cursor() as cursor:
        # Without this, an administrator who is not a superuser cannot create a database for a role that they created.
        cursor.execute("SET createrole_self_grant = 'set'")
        for role in (*GROUPS, *LOGINS):
            cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
            if not cursor.rowcount:
                cursor.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        for login, variable in LOGINS.items():
            password = verifier(connection, login, os.environ[variable])
            cursor.execute(
                sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(login), sql.Literal(password))
            )
        cursor.execute("GRANT loginpipe_writer TO loginpipe_pipeline")
        for database, owner in DATABASES.items():
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", (database,))
            name = sql.Identifier(database)
            if not cursor.rowcount:
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, sql.Identifier(owner)))
            # By default, every role can connect to a new database, and only its owner can change that.
            cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
            cursor.execute(sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(name))
            cursor.execute("RESET ROLE")
    connection.close()
    sys.stdout.write(f"databases {', '.join(DATABASES)} and logins {', '.join(LOGINS)} are ready\n")


def verifier(connection: psycopg2.extensions.connection, login: str, password: str) -> str:
    """Return the SCRAM verifier of a password, so that the password itself is not sent: a server may log statements."""
    encrypted: str = psycopg2.extensions.encrypt_password(password, login, connection, "scram-sha-256")
    return encrypted


main()
