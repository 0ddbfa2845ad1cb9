/* SPDX-License-Identifier: MIT */
#include "schema.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <mqfs/clock.h>

#include "schema_internal.h"
#include "statement.h"

/* Making, opening and migrating a file. It is opened to be written only when schema_probe.c has nothing against it. */

/* Makes every missing directory above path. */
static int schema_make_parents(const char *path, char **ret_error)
{
	char *copy = strdup(path);
	int r = 0;

	if (!copy)
		return -ENOMEM;
	for (char *slash = strchr(copy + 1, '/'); slash && r == 0; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(copy, 0700) < 0 && errno != EEXIST)
			r = schema_fail(ret_error, -errno, "%s: %s", copy, strerror(errno));
		*slash = '/';
	}
	free(copy);
	return r;
}

/* 1: there is a file with something in it; 0: an empty one, made here if need be. */
static int schema_make_file(const char *path, char **ret_error)
{
	struct stat status;
	int fd, r;

	/* Whoever finds it here leaves it unopened: see schema_probe.c. */
	if (stat(path, &status) == 0) {
		if (!S_ISREG(status.st_mode))
			return schema_fail(ret_error, S_ISDIR(status.st_mode) ? -EISDIR : -EINVAL, "%s: not a file",
			                   path);
		return status.st_size > 0;
	}
	if (errno != ENOENT)
		return schema_fail(ret_error, -errno, "%s: %s", path, strerror(errno));
	r = schema_make_parents(path, ret_error);
	if (r < 0)
		return r;
	fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 && errno != EEXIST)
		return schema_fail(ret_error, -errno, "%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return 0;
}

/* Several processes may come here at once; whoever is first does it. */
static int schema_migrate(const struct schema *schema, sqlite3 *db)
{
	int64_t version;
	char sql[96];
	int r;

	if (sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL) != SQLITE_OK)
		return statement_errno(db);
	r = schema_integer(db, "PRAGMA user_version", &version);
	snprintf(sql, sizeof(sql), "PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT",
	         schema->application_id, schema->version);
	for (; r == 0 && version < schema->version; version++)
		if (sqlite3_exec(db, schema->migrations[version], NULL, NULL, NULL) != SQLITE_OK)
			r = statement_errno(db);
	if (r == 0 && sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		r = statement_errno(db);
	if (!sqlite3_get_autocommit(db))
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

static int schema_configure(sqlite3 *db)
{
	/*
	 * The log is reused from its start after a checkpoint, which is cheaper than letting it grow
	 * anew: synchronising a file whose size doesn't change needs no journal commit of the file
	 * system. The writer decides when to checkpoint. Erased content need not be overwritten.
	 */
	static const char pragmas[] =
	    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
	    "PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864;"
	    "PRAGMA cache_size = -4096; PRAGMA secure_delete = OFF; PRAGMA temp_store = MEMORY";

	return sqlite3_exec(db, pragmas, NULL, NULL, NULL) == SQLITE_OK ? 0 : statement_errno(db);
}

/* What can be refused only by one who takes part: the version and the contents with the log. */
static int schema_enter(const struct schema *schema, sqlite3 *db, const char *path, bool exists, bool checked,
                        char **ret_error)
{
	int64_t version = 0, pages = 0;
	int r = 0;

	/* One that was not finished is empty again when its journal has been rolled back. */
	if (exists && schema_integer(db, "PRAGMA page_count", &pages) < 0)
		return schema_fail_db(schema, path, db, ret_error);
	if (pages > 0) {
		r = schema_identify(schema, db, path, &version, ret_error);
		if (r == 0 && !checked)
			r = schema_check(schema, db, version, path, ret_error);
		if (r < 0)
			return r;
	}
	if (version < schema->version)
		r = schema_migrate(schema, db);
	if (r == 0)
		r = schema_configure(db);
	if (r == 0)
		r = schema_integer(db, schema->probe, &version);
	if (r < 0)
		return schema_fail_db(schema, path, db, ret_error);
	return 0;
}

/* While others go over to WAL, or close the file as the last, SQLite doesn't wait, but says at once that it is busy. */
static int schema_enter_patiently(const struct schema *schema, sqlite3 *db, const char *path, bool exists, bool checked,
                                  int64_t until_ms, char **ret_error)
{
	static const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
	int r;

	while ((r = schema_enter(schema, db, path, exists, checked, ret_error)) == -ETIMEDOUT &&
	       mqfs_clock_monotonic_ms() < until_ms) {
		free(*ret_error);
		*ret_error = NULL;
		nanosleep(&pause, NULL);
	}
	return r;
}

static int schema_open_file(const struct schema *schema, const char *path, int busy_timeout_ms, sqlite3 **ret_db,
                            char **ret_error)
{
	bool exists, checked = false;
	sqlite3 *db = NULL;
	int r;

	r = schema_make_file(path, ret_error);
	if (r < 0)
		return r;
	exists = r == 1;
	if (exists) {
		r = schema_probe(schema, path, &checked, ret_error);
		if (r < 0)
			return r;
	}
	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
		r = schema_fail_db(schema, path, db, ret_error);
		goto out;
	}
	sqlite3_extended_result_codes(db, 1);
	/* SQLite is content with reading where writing isn't allowed. */
	if (sqlite3_db_readonly(db, "main") == 1) {
		r = access(path, W_OK) < 0 ? -errno : -EROFS;
		schema_fail(ret_error, r, "%s: %s", path, strerror(-r));
		goto out;
	}
	/* Without this, closing after a refusal would move the log into the file. */
	sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_busy_timeout(db, busy_timeout_ms);
	r = schema_enter_patiently(schema, db, path, exists, checked, mqfs_clock_monotonic_ms() + busy_timeout_ms,
	                           ret_error);
	if (r < 0)
		goto out;
	sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	*ret_db = db;
	return 0;
out:
	sqlite3_close(db);
	return r;
}

int schema_open(const struct schema *schema, const char *path, int busy_timeout_ms, sqlite3 **ret_db, char **ret_error)
{
	char *plain;
	int r;

	if (*path == '/')
		return schema_open_file(schema, path, busy_timeout_ms, ret_db, ret_error);
	/* To SQLite ":memory:" is no file, and "file:x" a URI. */
	if (asprintf(&plain, "./%s", path) < 0)
		return -ENOMEM;
	r = schema_open_file(schema, plain, busy_timeout_ms, ret_db, ret_error);
	free(plain);
	return r;
}
