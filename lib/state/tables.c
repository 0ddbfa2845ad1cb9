/* SPDX-License-Identifier: MIT */
#include "tables.h"

/*
 * entry and content are the outbox's, outcome and take the records'.
 *
 * Every change of an entry has a revision of its own, a number that only rises, so that a mount can ask for all
 * that is new since it last looked; removal remembers the latest of those that went. An entry's id is the revision
 * that made it, and its position in its line the one by which it came to wait.
 *
 * A name is its base and which twin it is ("x~3" is twin 3 of "x"), so that the next free one is found at once. Names
 * are bytes and need not be UTF-8.
 *
 * A line is held by a mount while flight_to > 0 and its lease runs, which is boot time in milliseconds in the boot of
 * that id; what waits at positions up to flight_to is in flight. pid is for people. Other times are real time in
 * microseconds.
 */

static const char *const migrations[] = {
    /* 0 -> 1. Kinds: 0 waiting, 1 kept, 2 file. bytes: what is charged. */
    "CREATE TABLE about (one INTEGER PRIMARY KEY CHECK (one = 1), peer TEXT NOT NULL,"
    " revision INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;"
    "INSERT INTO about VALUES (1, '', 0, 0);"
    "CREATE TABLE line (id INTEGER PRIMARY KEY, queue TEXT NOT NULL UNIQUE CHECK (queue <> ''),"
    " generation INTEGER NOT NULL DEFAULT 0, flight_to INTEGER NOT NULL DEFAULT 0,"
    " boot TEXT NOT NULL DEFAULT '', lease_until INTEGER NOT NULL DEFAULT 0, pid INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE TABLE entry (id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, line INTEGER NOT NULL,"
    " kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 2), position INTEGER NOT NULL, priority INTEGER NOT NULL, base "
    "TEXT NOT NULL CHECK (base <> ''),"
    " twin INTEGER NOT NULL, mode INTEGER NOT NULL, bytes INTEGER NOT NULL, body_bytes INTEGER NOT NULL,"
    " modified_at INTEGER NOT NULL, due_at INTEGER NOT NULL, spoiled INTEGER NOT NULL, error INTEGER NOT NULL,"
    " reason TEXT) STRICT;"
    "CREATE TABLE content (id INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL) STRICT;"
    "CREATE TABLE removal (revision INTEGER PRIMARY KEY, id INTEGER NOT NULL, sent INTEGER NOT NULL) STRICT;"
    "CREATE UNIQUE INDEX entry_revision ON entry (revision);"
    "CREATE UNIQUE INDEX entry_name ON entry (line, priority, base, twin);"
    "CREATE UNIQUE INDEX entry_position ON entry (line, position) WHERE kind = 0;"
    "CREATE TABLE outcome (queue TEXT NOT NULL, message_id TEXT NOT NULL, copy TEXT NOT NULL,"
    " outcome INTEGER NOT NULL, error TEXT, at INTEGER NOT NULL,"
    " PRIMARY KEY (queue, message_id, copy)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX outcome_at ON outcome (at);"
    "CREATE TABLE take (queue TEXT NOT NULL, message_id TEXT NOT NULL, copy TEXT NOT NULL,"
    " takes INTEGER NOT NULL, at INTEGER NOT NULL,"
    " PRIMARY KEY (queue, message_id, copy)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX take_at ON take (at);",
};

const struct schema state_schema = {
    .application_id = 0x6d717374, /* "mqst" */
    .noun = "state file",
    .migrations = migrations,
    .version = sizeof(migrations) / sizeof(migrations[0]),
    .probe = "SELECT revision FROM about",
};
