/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_LEDGER_H
#define MQFS_SQLITE_LEDGER_H

#include "internal.h"

/*
 * What the writer remembers of the file between transactions: the queues with their counts, and the
 * sequence, from which messages, generations, queues and mounts get their numbers, unique for ever
 * and rising. It is right as long as no other process commits, which PRAGMA data_version tells;
 * changes are written once, at the end of a transaction.
 */

/* Begins. write false: what follows only reads. 0; -EAGAIN when another process writes too long. */
int ledger_begin(struct store *store, bool write);
/* Writes what changed and commits. After a failure everything is undone. */
int ledger_commit(struct store *store);
void ledger_rollback(struct store *store);

/* 1 when another process has changed the file since the last look, 0, or a negative errno. */
int ledger_sync(struct store *store);

/* 0 with *ret_queue NULL when there is none, or one whose name is damaged. It is valid until the transaction ends. */
int ledger_queue(struct store *store, const char *name, struct queue **ret_queue);
int ledger_queue_by_id(struct store *store, int64_t id, struct queue **ret_queue);
/* The name of a queue in a row: a new string. -EIO for what can't be one, -ENOMEM. */
int ledger_name(sqlite3_stmt *statement, int column, char **ret_name);
/* It was deleted. */
void ledger_drop(struct store *store, struct queue *queue);
void ledger_forget(struct store *store);

void ledger_count(struct queue *queue, enum message_state state, int64_t change);
/* Within a transaction that writes. */
int64_t ledger_next(struct store *store);

#endif
