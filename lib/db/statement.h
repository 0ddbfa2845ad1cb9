/* SPDX-License-Identifier: MIT */
#ifndef MQFS_DB_STATEMENT_H
#define MQFS_DB_STATEMENT_H

#include <stddef.h>
#include <stdint.h>

#include <sqlite3.h>

/* Running prepared statements, with an errno for what goes wrong. A NULL statement gives -ENOMEM. */

/* Runs a statement that gives no rows and resets it. 0 or a negative errno. */
int statement_run(sqlite3_stmt *statement);
/* Runs a statement that gives one integer; *ret_value is fallback when there is no row or a NULL. */
int statement_integer(sqlite3_stmt *statement, int64_t fallback, int64_t *ret_value);
/* 1: a row is there; 0: the end, and it is reset; else a negative errno, and it is reset. */
int statement_step(sqlite3_stmt *statement);
/* Binds data as a blob, which must stay where it is until the statement has run. */
void statement_bind_bytes(sqlite3_stmt *statement, int index, const void *data, size_t bytes);

/* The errno of what went wrong last on this connection. */
int statement_errno(sqlite3 *db);

#endif
