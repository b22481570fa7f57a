-- Version 5: secret values of services, sealed.

CREATE TABLE secret (
    service     TEXT NOT NULL,
    name        TEXT NOT NULL,                -- the variable
    given_to    TEXT NOT NULL CHECK (given_to IN ('build', 'run', 'both')),
    file        TEXT,                         -- the name of a file on the agent that holds the value, or
    sealed      BLOB,                         -- the value
    by          TEXT NOT NULL,                -- JSON, a principal
    at_ms       INTEGER NOT NULL,
    PRIMARY KEY (service, name),
    CHECK ((file IS NULL) <> (sealed IS NULL))
) STRICT;
