-- Version 4: the audit. Rows are added and never changed.

CREATE TABLE audit (
    seq         INTEGER PRIMARY KEY,
    at_ms       INTEGER NOT NULL,
    who         TEXT NOT NULL,                -- JSON, a principal; or the name that somebody gave without proof
    via         TEXT NOT NULL,                -- page, api, chat, automatic, host
    address     TEXT,                         -- where the request came from
    action      TEXT NOT NULL,
    target      TEXT,
    result      TEXT NOT NULL,                -- done, or the code of the refusal
    request     TEXT,                         -- the request's id
    digest      BLOB NOT NULL                 -- SHA-256 over the digest before and this row
) STRICT;
CREATE INDEX audit_by_action ON audit (action, seq);
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit BEGIN SELECT raise(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_is_never_cut BEFORE DELETE ON audit BEGIN SELECT raise(ABORT, 'the audit is append-only'); END;
