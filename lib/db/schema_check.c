/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "schema_internal.h"
#include "statement.h"

/* What a file is, and whether it is whole. */

/* Past this size a full check at each start would take too long; damage then shows when it is met. */
#define CHECK_BYTES_MAX (INT64_C(256) << 20)

int schema_fail(char **ret_error, int result, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	if (vasprintf(ret_error, format, arguments) < 0)
		*ret_error = NULL;
	va_end(arguments);
	return result;
}

int schema_fail_db(const struct schema *schema, const char *path, sqlite3 *db, char **ret_error)
{
	int result = statement_errno(db);

	if (result == -EAGAIN)
		return schema_fail(ret_error, -ETIMEDOUT, "%s: another process has locked the %s", path, schema->noun);
	if ((sqlite3_errcode(db) & 0xff) == SQLITE_CORRUPT)
		return schema_fail(ret_error, -EIO, "%s: the %s is damaged (%s)", path, schema->noun,
		                   sqlite3_errmsg(db));
	return schema_fail(ret_error, result, "%s: %s", path, sqlite3_errmsg(db));
}

int schema_integer(sqlite3 *db, const char *sql, int64_t *ret_value)
{
	sqlite3_stmt *statement = NULL;
	int r;

	if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
		return statement_errno(db);
	r = statement_integer(statement, 0, ret_value);
	sqlite3_finalize(statement);
	return r;
}

int schema_identify(const struct schema *schema, sqlite3 *db, const char *path, int64_t *ret_version, char **ret_error)
{
	int64_t application_id;

	if (schema_integer(db, "PRAGMA application_id", &application_id) < 0 ||
	    schema_integer(db, "PRAGMA user_version", ret_version) < 0) {
		if (sqlite3_errcode(db) == SQLITE_NOTADB)
			return schema_fail(ret_error, -EINVAL, "%s: not an mqfs %s, or one with a damaged header", path,
			                   schema->noun);
		return schema_fail_db(schema, path, db, ret_error);
	}
	if (application_id != schema->application_id)
		return schema_fail(ret_error, -EINVAL, "%s: an SQLite database, but not an mqfs %s", path,
		                   schema->noun);
	if (*ret_version < 1) /* it got both in one transaction */
		return schema_fail(ret_error, -EIO, "%s: the %s is damaged (it has no version)", path, schema->noun);
	if (*ret_version > schema->version)
		return schema_fail(ret_error, -EOPNOTSUPP,
		                   "%s: the %s has version %lld and this program knows versions up to %d; "
		                   "use a newer mqfs",
		                   path, schema->noun, (long long)*ret_version, schema->version);
	return 0;
}

/* What SQLite itself makes (sqlite_stat1, indexes of constraints) is nobody's business. */
static int schema_list(sqlite3 *db, sqlite3_stmt **ret_list)
{
	static const char list[] = "SELECT printf('%s %s %s', type, name, sql) FROM sqlite_schema"
	                           " WHERE name NOT GLOB 'sqlite_*' ORDER BY 1";

	return sqlite3_prepare_v2(db, list, -1, ret_list, NULL) == SQLITE_OK ? 0 : statement_errno(db);
}

/* Do two lists say the same? 1, 0, or a negative errno. */
static int schema_same(sqlite3_stmt *a, sqlite3_stmt *b)
{
	int more_a, more_b;

	for (;;) {
		more_a = statement_step(a);
		more_b = statement_step(b);
		if (more_a < 0 || more_b < 0)
			return more_a < 0 ? more_a : more_b;
		if (more_a == 0 || more_b == 0)
			return more_a == more_b;
		if (strcmp((const char *)sqlite3_column_text(a, 0), (const char *)sqlite3_column_text(b, 0)) != 0)
			return 0;
	}
}

/* A new, empty file of this version, in memory. */
static int schema_make_model(const struct schema *schema, int64_t version, sqlite3 **ret_db)
{
	int r = sqlite3_open(":memory:", ret_db) == SQLITE_OK ? 0 : -ENOMEM;

	for (int64_t i = 0; r == 0 && i < version; i++)
		if (sqlite3_exec(*ret_db, schema->migrations[i], NULL, NULL, NULL) != SQLITE_OK)
			r = statement_errno(*ret_db);
	return r;
}

/*
 * Tables, indexes and triggers have to be those that the migrations made: statements and their plans count on
 * them, and a trigger of somebody else's would do to messages what it likes.
 */
static int schema_compare(const struct schema *schema, sqlite3 *db, int64_t version, const char *path, char **ret_error)
{
	sqlite3_stmt *found = NULL, *wanted = NULL;
	sqlite3 *model = NULL;
	int r = schema_make_model(schema, version, &model);

	if (r == 0)
		r = schema_list(model, &wanted);
	if (r < 0)
		r = schema_fail_db(schema, path, model, ret_error);
	else if (schema_list(db, &found) < 0 || (r = schema_same(found, wanted)) < 0)
		r = schema_fail_db(schema, path, db, ret_error);
	else if (r == 0)
		r = schema_fail(ret_error, -EIO, "%s: the %s is damaged (its tables are not those of a %s)", path,
		                schema->noun, schema->noun);
	sqlite3_finalize(found);
	sqlite3_finalize(wanted);
	sqlite3_close(model);
	return r < 0 ? r : 0;
}

int schema_check(const struct schema *schema, sqlite3 *db, int64_t version, const char *path, char **ret_error)
{
	sqlite3_stmt *statement = NULL;
	const char *text = NULL;
	struct stat status;
	int r = schema_compare(schema, db, version, path, ret_error);

	if (r < 0)
		return r;
	if (stat(path, &status) == 0 && status.st_size > CHECK_BYTES_MAX)
		return 0;
	if (sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &statement, NULL) == SQLITE_OK &&
	    sqlite3_step(statement) == SQLITE_ROW)
		text = (const char *)sqlite3_column_text(statement, 0);
	if (!text)
		r = schema_fail_db(schema, path, db, ret_error);
	else if (strcmp(text, "ok") != 0)
		r = schema_fail(ret_error, -EIO, "%s: the %s is damaged (%s)", path, schema->noun, text);
	sqlite3_finalize(statement);
	return r;
}
