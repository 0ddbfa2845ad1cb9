/* SPDX-License-Identifier: MIT */
#ifndef MQFS_DB_SCHEMA_H
#define MQFS_DB_SCHEMA_H

#include <sqlite3.h>

/* A kind of file. */
struct schema {
	int application_id; /* at offset 68 of the file's header: what tells it from other SQLite databases */
	const char *noun;   /* for people: "store" */
	const char *const *migrations; /* [n] leads from version n to n + 1; each is a script of SQL */
	int version;                   /* how many there are */
	const char *probe;             /* a SELECT of one integer, which each file of this kind answers */
};

/*
 * Opens the file in path, checked and with the newest schema: the parent directories (0700) and the
 * file (0600) are made when they aren't there. Waits at most busy_timeout_ms for other processes. 0,
 * or a negative errno with *ret_error a new string (NULL: out of memory), and nothing was changed: a file that is
 * damaged (-EIO), somebody else's (-EINVAL) or newer than this program (-EOPNOTSUPP) is left as it is.
 */
int schema_open(const struct schema *schema, const char *path, int busy_timeout_ms, sqlite3 **ret_db, char **ret_error);

#endif
