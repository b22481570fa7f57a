-- Version 3: people with accounts, what they logged in with, and tokens with a scope. Only hashes of what opens a door.

-- A person who has logged in with a git account.
CREATE TABLE account (
    name        TEXT PRIMARY KEY,
    git_origin  TEXT NOT NULL,                -- scheme, host and port of the git host that vouched for the account
    git_user    TEXT NOT NULL,
    role        TEXT NOT NULL CHECK (role IN ('viewer', 'developer', 'admin')),
    created_ms  INTEGER NOT NULL,
    login_ms    INTEGER NOT NULL,             -- when the person logged in last
    UNIQUE (git_origin, git_user)
) STRICT;

-- The git credential of an account, sealed; gone when the account has neither a session nor a binding left.
CREATE TABLE credential (
    account     TEXT PRIMARY KEY REFERENCES account (name) ON DELETE CASCADE,
    sealed      BLOB NOT NULL
) STRICT;

-- Which account a user of a chat is. A bot's token is one chat.
CREATE TABLE binding (
    id          TEXT PRIMARY KEY,
    bot         TEXT NOT NULL,                -- the name of the bot's token
    chat_user   TEXT NOT NULL,
    account     TEXT NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    created_ms  INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    UNIQUE (bot, chat_user)
) STRICT;
CREATE INDEX binding_by_account ON binding (account);

-- A link to the login page for one user of a chat; used up by the login that binds them.
CREATE TABLE login_link (
    hash        BLOB PRIMARY KEY,
    bot         TEXT NOT NULL,
    chat_user   TEXT NOT NULL,
    expires_ms  INTEGER NOT NULL
) STRICT;

DROP TABLE session;                           -- browsers sign in again
CREATE TABLE session (
    id          TEXT PRIMARY KEY,             -- names it to its owner; opens nothing
    hash        BLOB NOT NULL UNIQUE,
    before      BLOB,                         -- the value before the last rotation, for requests that were under way
    before_ms   INTEGER,                      -- until when that one is taken
    principal   TEXT NOT NULL,                -- JSON
    account     TEXT REFERENCES account (name) ON DELETE CASCADE,
    token       TEXT,                         -- the token through which it was made, if so: it ends with it
    binding     TEXT,                         -- likewise the binding
    address     TEXT,
    user_agent  TEXT,
    created_ms  INTEGER NOT NULL,
    rotated_ms  INTEGER NOT NULL,
    used_ms     INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL
) STRICT;
CREATE INDEX session_by_before ON session (before) WHERE before IS NOT NULL;
CREATE INDEX session_by_account ON session (account);

DROP TABLE sign_in_code;                      -- they work for ten minutes
CREATE TABLE sign_in_code (
    hash        BLOB PRIMARY KEY,
    principal   TEXT NOT NULL,                -- JSON: who is signed in
    account     TEXT REFERENCES account (name) ON DELETE CASCADE,
    token       TEXT,
    binding     TEXT,
    next        TEXT NOT NULL,
    expires_ms  INTEGER NOT NULL
) STRICT;

-- Kinds are checked by the program from now on: SQLite cannot change a CHECK.
CREATE TABLE token_3 (
    name        TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    hash        BLOB NOT NULL UNIQUE,         -- SHA-256 of a random 256-bit value
    owner       TEXT REFERENCES account (name) ON DELETE CASCADE,   -- none: it is nobody's but the operators'
    service     TEXT,                         -- it changes nothing but this service
    created_ms  INTEGER NOT NULL,
    expires_ms  INTEGER,                      -- none: until it is revoked
    used_ms     INTEGER
) STRICT;
INSERT INTO token_3 (name, kind, hash, created_ms) SELECT name, kind, hash, created_ms FROM token;
DROP TABLE token;
ALTER TABLE token_3 RENAME TO token;
CREATE INDEX token_by_owner ON token (owner);

-- What an agent's token is got with, once, within an hour.
CREATE TABLE enrolment (
    hash        BLOB PRIMARY KEY,
    agent       TEXT NOT NULL UNIQUE,         -- a newer one for the same agent replaces it
    expires_ms  INTEGER NOT NULL
) STRICT;
