#!/usr/bin/env bash
# Run once, by the postgres image, on an empty data folder.
# Two databases with an owner each: Dagster's account is refused by the database that holds the logins. The pipeline has
# a third one, which may load and cannot read what it sealed. They share one password because libpq reads one
# PGPASSWORD; give them three where the machine is not a developer's own.
set -euo pipefail

psql --no-psqlrc --set=ON_ERROR_STOP=1 --set=password="$POSTGRES_PASSWORD" \
  --username="$POSTGRES_USER" --dbname=postgres <<'SQL'
CREATE ROLE loginpipe LOGIN PASSWORD :'password';
CREATE ROLE dagster LOGIN PASSWORD :'password';

-- Made here, so that the owner need not be allowed to make roles. The migrations grant them what docs/tables.md lists.
CREATE ROLE loginpipe_writer NOLOGIN;
CREATE ROLE loginpipe_analyst NOLOGIN;
CREATE ROLE pii_custodian NOLOGIN;
CREATE ROLE pii_auditor NOLOGIN;

CREATE ROLE loginpipe_pipeline LOGIN PASSWORD :'password' IN ROLE loginpipe_writer;

-- An owner may create in the schema public, which is all that the migrations need.
CREATE DATABASE loginpipe OWNER loginpipe;
CREATE DATABASE dagster OWNER dagster;

-- Anyone may connect to a new database unless told otherwise.
REVOKE CONNECT, TEMPORARY ON DATABASE loginpipe FROM PUBLIC;
REVOKE CONNECT, TEMPORARY ON DATABASE dagster FROM PUBLIC;
SQL
