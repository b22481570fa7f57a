-- Version 2: which database this is, and from where its numbers go on after a restore.

PRAGMA application_id = 1396985857;           -- "SDP" and a 1

CREATE TABLE identity (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    id            TEXT NOT NULL,              -- the same in the mark of its data folder
    seq_floor     INTEGER NOT NULL,           -- no event at or below it is written any more
    number_floor  INTEGER NOT NULL            -- nor a deployment with such a number
) STRICT;
