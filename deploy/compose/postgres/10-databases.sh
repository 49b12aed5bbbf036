#!/usr/bin/env bash
# The postgres image runs this once, on an empty data folder.
# It creates two databases, each with its owner. The owner of Dagster's database cannot connect to the database with the logins. The
# pipeline has a third role, which can load and cannot read the values that it sealed. All share one password, because libpq reads
# one PGPASSWORD. Give them three passwords on a machine that several people use.
set -euo pipefail

psql --no-psqlrc --set=ON_ERROR_STOP=1 --set=password="$POSTGRES_PASSWORD" \
  --username="$POSTGRES_USER" --dbname=postgres <<'SQL'
CREATE ROLE loginpipe LOGIN PASSWORD :'password';
CREATE ROLE dagster LOGIN PASSWORD :'password';

-- Created here, so that the owner does not need CREATEROLE. The migrations grant them what docs/tables.md lists.
CREATE ROLE loginpipe_writer NOLOGIN;
CREATE ROLE loginpipe_analyst NOLOGIN;
CREATE ROLE pii_custodian NOLOGIN;
CREATE ROLE pii_auditor NOLOGIN;

CREATE ROLE loginpipe_pipeline LOGIN PASSWORD :'password' IN ROLE loginpipe_writer;

-- The owner can create objects in the schema public, which is enough for the migrations.
CREATE DATABASE loginpipe OWNER loginpipe;
CREATE DATABASE dagster OWNER dagster;

-- By default, every role can connect to a new database.
REVOKE CONNECT, TEMPORARY ON DATABASE loginpipe FROM PUBLIC;
REVOKE CONNECT, TEMPORARY ON DATABASE dagster FROM PUBLIC;
SQL
