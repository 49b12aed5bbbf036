#!/usr/bin/env bash
# Run once, by the postgres image, on an empty data folder.
# Two databases with an owner each, so that the web server and the daemon cannot read logins through Dagster's account.
# They share one password because libpq reads one PGPASSWORD; give them two where the machine is not a developer's.
set -euo pipefail

psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres --set=password="$POSTGRES_PASSWORD" <<'SQL'
-- The migrations make the roles of the warehouse.
CREATE ROLE loginpipe LOGIN CREATEROLE PASSWORD :'password';
CREATE ROLE dagster LOGIN PASSWORD :'password';

CREATE DATABASE loginpipe OWNER loginpipe;
CREATE DATABASE dagster OWNER dagster;

-- Anyone may connect to a new database unless told otherwise.
REVOKE CONNECT, TEMPORARY ON DATABASE loginpipe FROM PUBLIC;
REVOKE CONNECT, TEMPORARY ON DATABASE dagster FROM PUBLIC;
SQL
