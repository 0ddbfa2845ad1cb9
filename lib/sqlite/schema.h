/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_SCHEMA_H
#define MQFS_SQLITE_SCHEMA_H

#include <sqlite3.h>

/* 'm' 'q' 'f' 's' at offset 68 of the file's header: what tells a store from other SQLite databases. */
#define SCHEMA_APPLICATION_ID 0x6d716673

/*
 * Opens the store in path, checked and with the newest schema: the parent directories (0700) and the
 * file (0600) are made when they aren't there. Waits at most busy_timeout_ms for other processes. 0,
 * or a negative errno with *ret_error a new string (NULL: out of memory), and nothing was changed.
 */
int schema_open(const char *path, int busy_timeout_ms, sqlite3 **ret_db, char **ret_error);

#endif
