/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_STATEMENTS_H
#define MQFS_SQLITE_STATEMENTS_H

#include <stddef.h>
#include <stdint.h>

#include <sqlite3.h>

/*
 * Every statement the writer runs, prepared once when the store is opened (the table is in
 * statements.c). Only the writer's thread uses them.
 */
enum statement_id {
	STATEMENT_BEGIN_READ,
	STATEMENT_BEGIN_WRITE,
	STATEMENT_COMMIT,
	STATEMENT_ROLLBACK,
	STATEMENT_DATA_VERSION,
	STATEMENT_PAGE_SIZE,
	STATEMENT_PAGE_COUNT,
	STATEMENT_SEQUENCE_GET,
	STATEMENT_SEQUENCE_SET,
	STATEMENT_QUEUE_BY_NAME,
	STATEMENT_QUEUE_BY_ID,
	STATEMENT_QUEUE_INSERT,
	STATEMENT_QUEUE_DELETE,
	STATEMENT_QUEUE_LIST,
	STATEMENT_QUEUE_COUNTS,
	STATEMENT_MESSAGE_INSERT,
	STATEMENT_MESSAGE_DELETE,
	STATEMENT_MESSAGE_MOVE,
	STATEMENT_MESSAGE_RELEASE,
	STATEMENT_MESSAGE_WAKE,
	STATEMENT_MESSAGE_TAKE,
	STATEMENT_MESSAGE_RETRY,
	STATEMENT_MESSAGE_DEAD,
	STATEMENT_MESSAGE_NEXT,
	STATEMENT_MESSAGE_OLDEST,
	STATEMENT_CONTENT_INSERT,
	STATEMENT_CONTENT_DELETE,
	STATEMENT_CONTENT_GET,
	STATEMENT_CONTENT_HEAD,
	STATEMENT_CONTENT_WHOLE,
	STATEMENT_DUE_NEXT,
	STATEMENT_DUE_RETRY,
	STATEMENT_DUE_EXPIRED,
	STATEMENT_MOUNT_INSERT,
	STATEMENT_MOUNT_RENEW,
	STATEMENT_MOUNT_DELETE,
	STATEMENT_MOUNT_SWEEP,
	STATEMENT_LEASED_LOST,
	STATEMENT_LEASED_FREE,
	STATEMENT_LEASED_RETURN,
	STATEMENT_CONSUMER_INSERT,
	STATEMENT_CONSUMER_CLEAR,
	STATEMENT_CONSUMER_SWEEP,
	STATEMENT_CONSUMER_COUNT,
	STATEMENT_CONSUMER_FORGET,
	STATEMENTS
};

/* Both give 0 or a negative errno. */
int statements_prepare(sqlite3 *db, sqlite3_stmt *statements[STATEMENTS]);
void statements_finalize(sqlite3_stmt *statements[STATEMENTS]);

/* Runs a statement that gives no rows and resets it. 0 or a negative errno. */
int statement_run(sqlite3_stmt *statement);
/* Runs a statement that gives one integer; *ret_value is fallback when there is no row or a NULL. */
int statement_integer(sqlite3_stmt *statement, int64_t fallback, int64_t *ret_value);
/* 1: a row is there; 0: the end, and it is reset; else a negative errno, and it is reset. */
int statement_step(sqlite3_stmt *statement);
/* Binds data as a blob, which must stay where it is until the statement has run. */
void statement_bind_bytes(sqlite3_stmt *statement, int index, const void *data, size_t bytes);

/* The errno of what went wrong last on this connection. */
int statements_errno(sqlite3 *db);

#endif
