-- The whole database, version 1. Later versions are files of their own (schema_2.sql, …), each run once, in order.
-- Rows are folds of events, kept for lists and for a quick start; events are the truth.

CREATE TABLE event (
    seq         INTEGER PRIMARY KEY,          -- the one global sequence
    at_ms       INTEGER NOT NULL,
    deployment  TEXT,
    instance    TEXT,
    service     TEXT,
    sandbox     TEXT,
    agent       TEXT,
    body        TEXT NOT NULL                 -- the whole event as JSON
) STRICT;
CREATE INDEX event_by_deployment ON event (deployment, seq) WHERE deployment IS NOT NULL;
CREATE INDEX event_by_sandbox ON event (sandbox, seq) WHERE sandbox IS NOT NULL;
CREATE INDEX event_by_service ON event (service, seq) WHERE service IS NOT NULL;

CREATE TABLE service (
    name        TEXT PRIMARY KEY,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE sandbox (
    name        TEXT PRIMARY KEY,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE deployment (
    number      INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    service     TEXT NOT NULL,
    sandbox     TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('queued', 'running', 'ended')),
    outcome     TEXT,
    body        TEXT NOT NULL
) STRICT;
CREATE INDEX deployment_by_place ON deployment (service, sandbox, number);
CREATE INDEX deployment_by_sandbox ON deployment (sandbox, number);
CREATE INDEX deployment_unended ON deployment (number) WHERE state <> 'ended';

-- What an unended deployment was sent with; gone when it has ended. Never a credential.
CREATE TABLE job (
    deployment  TEXT PRIMARY KEY,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE instance (
    id          TEXT PRIMARY KEY,
    service     TEXT NOT NULL,
    sandbox     TEXT NOT NULL,
    over        INTEGER NOT NULL,             -- 1: stopped or lost
    routed      INTEGER NOT NULL,             -- 1: the route table depends on it
    body        TEXT NOT NULL
) STRICT;
CREATE INDEX instance_by_place ON instance (sandbox, service);
CREATE INDEX instance_open ON instance (id) WHERE over = 0 OR routed = 1;

CREATE TABLE idempotency (
    principal   TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,                -- of the request's body; another body with the same key is refused
    deployment  TEXT NOT NULL,
    at_ms       INTEGER NOT NULL,
    PRIMARY KEY (principal, key)
) STRICT;

CREATE TABLE agent (
    name        TEXT PRIMARY KEY,
    epoch       INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    body        TEXT NOT NULL
) STRICT;

-- Access: only hashes of what opens a door.
CREATE TABLE token (
    name        TEXT PRIMARY KEY,
    kind        TEXT NOT NULL CHECK (kind IN ('admin', 'bot', 'agent')),
    hash        BLOB NOT NULL UNIQUE,         -- SHA-256 of a random 256-bit value
    created_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE sign_in_code (
    hash        BLOB PRIMARY KEY,
    principal   TEXT NOT NULL,                -- JSON
    next        TEXT NOT NULL,
    expires_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE session (
    hash        BLOB PRIMARY KEY,
    principal   TEXT NOT NULL,                -- JSON
    created_ms  INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL
) STRICT;
