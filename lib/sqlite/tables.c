/* SPDX-License-Identifier: MIT */
#include "tables.h"

/*
 * Messages live in two tables. A row of messages says where a message is and who holds it; it is small
 * and is what taking, releasing and retrying rewrite. Its contents, up to a megabyte, are written once.
 * Partial indexes serve one question each, so that a row in a state is only in the indexes of that state.
 */

static const char *const migrations[] = {
    /* 0 -> 1. States: 0 ready, 1 leased, 2 retry, 3 dead. Times are real time in microseconds, but
     * lease_until, which is boot time in milliseconds. pid is for people. ready to dead count the queue's messages. */
    "CREATE TABLE store (one INTEGER PRIMARY KEY CHECK (one = 1), sequence INTEGER NOT NULL) STRICT;"
    "INSERT INTO store VALUES (1, 0);"
    "CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " max_priority INTEGER NOT NULL, message_ttl INTEGER NOT NULL, max_length INTEGER NOT NULL,"
    " overflow INTEGER NOT NULL, dead_letter INTEGER NOT NULL,"
    " ready INTEGER NOT NULL DEFAULT 0, leased INTEGER NOT NULL DEFAULT 0,"
    " retry INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE TABLE mounts (id INTEGER PRIMARY KEY, boot TEXT NOT NULL, lease_until INTEGER NOT NULL,"
    " pid INTEGER NOT NULL) STRICT;"
    "CREATE TABLE consumers (mount INTEGER NOT NULL, queue INTEGER NOT NULL, PRIMARY KEY (mount, queue))"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE messages (id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, state INTEGER NOT NULL,"
    " priority INTEGER NOT NULL, generation INTEGER NOT NULL, mount INTEGER,"
    " deliveries INTEGER NOT NULL DEFAULT 0, redelivered INTEGER NOT NULL DEFAULT 0,"
    " next_at INTEGER, expires_at INTEGER) STRICT;"
    "CREATE TABLE contents (id INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL) STRICT;"
    "CREATE INDEX messages_ready ON messages (queue, priority DESC, id) WHERE state = 0;"
    "CREATE INDEX messages_expiring ON messages (expires_at) WHERE state = 0 AND expires_at IS NOT NULL;"
    "CREATE INDEX messages_leased ON messages (mount) WHERE state = 1;"
    "CREATE INDEX messages_due ON messages (next_at) WHERE state = 2;"
    "CREATE INDEX messages_retry ON messages (queue, id) WHERE state = 2;"
    "CREATE INDEX messages_dead ON messages (queue, id) WHERE state = 3;",
};

const struct schema sqlite_schema = {
    .application_id = 0x6d716673, /* "mqfs" */
    .noun = "store",
    .migrations = migrations,
    .version = sizeof(migrations) / sizeof(migrations[0]),
    .probe = "SELECT sequence FROM store",
};
