/* SPDX-License-Identifier: MIT */
#ifndef MQFS_DB_SCHEMA_INTERNAL_H
#define MQFS_DB_SCHEMA_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "schema.h"

/* Returns result, with a text for people. */
__attribute__((format(printf, 3, 4))) int schema_fail(char **ret_error, int result, const char *format, ...);
/* What went wrong last on this connection. */
int schema_fail_db(const struct schema *schema, const char *path, sqlite3 *db, char **ret_error);

int schema_integer(sqlite3 *db, const char *sql, int64_t *ret_value);

/* Whose file is it, and of which version? */
int schema_identify(const struct schema *schema, sqlite3 *db, const char *path, int64_t *ret_version, char **ret_error);
/* Is it whole, with the tables of that version? */
int schema_check(const struct schema *schema, sqlite3 *db, int64_t version, const char *path, char **ret_error);

/* Looks at a file that is there without leaving a trace, and refuses what isn't ours or is damaged. *ret_checked: it
 * was whole, too. */
int schema_probe(const struct schema *schema, const char *path, bool *ret_checked, char **ret_error);

#endif
