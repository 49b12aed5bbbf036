#!/usr/bin/env bash
# Run once, by the postgres image, on an empty data folder.
# Two databases with an owner each: Dagster's account is refused by the database that holds the logins. They share one
# password because libpq reads one PGPASSWORD; give them two where the machine is not a developer's own.
set -euo pipefail

psql --no-psqlrc --set=ON_ERROR_STOP=1 --set=password="$POSTGRES_PASSWORD" \
  --username="$POSTGRES_USER" --dbname=postgres <<'SQL'
CREATE ROLE loginpipe LOGIN PASSWORD :'password';
CREATE ROLE dagster LOGIN PASSWORD :'password';

-- An owner may create in the schema public, which is all that the migrations need.
CREATE DATABASE loginpipe OWNER loginpipe;
CREATE DATABASE dagster OWNER dagster;

-- Anyone may connect to a new database unless told otherwise.
REVOKE CONNECT, TEMPORARY ON DATABASE loginpipe FROM PUBLIC;
REVOKE CONNECT, TEMPORARY ON DATABASE dagster FROM PUBLIC;
SQL
