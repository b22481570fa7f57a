-- Version 6: environments, templates, locks and batches; sandboxes with an environment, a key and an end.

CREATE TABLE environment (
    name        TEXT PRIMARY KEY,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE template (
    name        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    body        TEXT NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

CREATE TABLE lock (
    id          TEXT PRIMARY KEY,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE batch (
    id          TEXT PRIMARY KEY,
    sandbox     TEXT NOT NULL,
    open        INTEGER NOT NULL,             -- 1 until all of its deployments have ended
    body        TEXT NOT NULL
) STRICT;

CREATE INDEX batch_open ON batch (open) WHERE open = 1;

-- Sandboxes of before: everybody could deploy into them, and none had an end. A key has the letters a to z and the digits 2 to 7.
UPDATE sandbox SET body = json_set(
    body,
    '$.shared', json('true'),
    '$.environment', 'default',
    '$.key', 'rk_' || replace(replace(replace(replace(lower(hex(randomblob(13))), '0', 'g'), '1', 'h'), '8', 'i'), '9', 'j'),
    '$.lifetime_hours', 168,
    '$.expires_at', json('null'),
    '$.pinned', json('true')
);
