/* SPDX-License-Identifier: MIT */
#include "schema.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <mqfs/clock.h>

#include "statement.h"

/*
 * A file that isn't ours, or is damaged, has to stay as it is, without so much as a -wal beside it. So
 * it is looked at first through a connection that is read-only and "immutable", which takes no locks and
 * makes no files. That connection doesn't see the write-ahead log, which is why a new store gets its
 * application_id and its first schema in a plain rollback transaction, before it goes over to WAL: the
 * file's own header tells what it is from its first moment on. Whoever is killed in that transaction leaves a journal,
 * by which SQLite makes the file empty again.
 *
 * It is never opened with open(2) alone: closing such a descriptor would drop the POSIX locks that
 * another connection in this process holds on the same file.
 */

/* Past this size a full check at each start would take too long; damage then shows when it is met. */
#define CHECK_BYTES_MAX (INT64_C(256) << 20)

enum { HEADER_BYTES = 100, APPLICATION_ID_AT = 68 }; /* of the file */

__attribute__((format(printf, 3, 4))) static int schema_fail(char **ret_error, int result, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	if (vasprintf(ret_error, format, arguments) < 0)
		*ret_error = NULL;
	va_end(arguments);
	return result;
}

static int schema_fail_db(const struct schema *schema, const char *path, sqlite3 *db, char **ret_error)
{
	int result = statement_errno(db);

	if (result == -EAGAIN)
		return schema_fail(ret_error, -ETIMEDOUT, "%s: another process has locked the %s", path, schema->noun);
	if ((sqlite3_errcode(db) & 0xff) == SQLITE_CORRUPT)
		return schema_fail(ret_error, -EIO, "%s: the %s is damaged (%s)", path, schema->noun,
		                   sqlite3_errmsg(db));
	return schema_fail(ret_error, result, "%s: %s", path, sqlite3_errmsg(db));
}

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

	/* Whoever finds it here leaves it unopened: see above. */
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

static uint32_t get_u32(const unsigned char *bytes)
{
	return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static int schema_integer(sqlite3 *db, const char *sql, int64_t *ret_value)
{
	sqlite3_stmt *statement = NULL;
	int r;

	if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
		return statement_errno(db);
	r = statement_integer(statement, 0, ret_value);
	sqlite3_finalize(statement);
	return r;
}

/* Whose file is it, and of which version? */
static int schema_identify(const struct schema *schema, sqlite3 *db, const char *path, int64_t *ret_version,
                           char **ret_error)
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

static int schema_check(const struct schema *schema, sqlite3 *db, int64_t version, const char *path, char **ret_error)
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

/* The path as a URI, in which these characters mean something. */
static char *schema_uri(const char *path)
{
	char *uri = malloc(strlen(path) * 3 + sizeof("file://?immutable=1"));
	char *at = uri;

	if (!uri)
		return NULL;
	at = stpcpy(at, *path == '/' ? "file://" : "file:");
	for (; *path; path++)
		at += sprintf(at, strchr("?#%", *path) ? "%%%02X" : "%c", (unsigned char)*path);
	stpcpy(at, "?immutable=1");
	return uri;
}

static bool schema_has_log(const char *path)
{
	struct stat status;
	char *log;
	bool has;

	if (asprintf(&log, "%s-wal", path) < 0)
		return true;
	has = stat(log, &status) == 0 && status.st_size > 0;
	free(log);
	return has;
}

/* Is there a journal of a transaction that nobody has finished? *ret_pages: how many the file has without it. */
static bool schema_has_journal(const char *path, uint32_t *ret_pages)
{
	static const unsigned char magic[] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
	unsigned char header[20];
	char *journal;
	bool has;
	int fd;

	if (asprintf(&journal, "%s-journal", path) < 0)
		return false;
	fd = open(journal, O_RDONLY | O_CLOEXEC);
	free(journal);
	if (fd < 0)
		return false;
	has = read(fd, header, sizeof(header)) == sizeof(header) && memcmp(header, magic, sizeof(magic)) == 0;
	close(fd);
	*ret_pages = has ? get_u32(header + 16) : 0;
	return has;
}

/* Was this file of ours, or one that is still all zeroes, left within a transaction? Then it needn't make sense. */
static bool schema_is_unfinished(const struct schema *schema, sqlite3 *db, const char *path)
{
	static const unsigned char zeroes[HEADER_BYTES];
	unsigned char header[HEADER_BYTES];
	sqlite3_file *file = NULL;
	uint32_t pages;

	if (!schema_has_journal(path, &pages) ||
	    sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK || !file->pMethods ||
	    file->pMethods->xRead(file, header, sizeof(header), 0) != SQLITE_OK)
		return false;
	if (get_u32(header + APPLICATION_ID_AT) == (uint32_t)schema->application_id)
		return true;
	return pages == 0 && memcmp(header, zeroes, sizeof(header)) == 0;
}

/* Looks at a file that is there without leaving a trace. *ret_checked: it was whole, too. */
static int schema_look(const struct schema *schema, const char *path, const char *uri, bool *ret_checked,
                       char **ret_error)
{
	sqlite3 *db = NULL;
	int64_t version = 0;
	int r = 0;

	if (sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL) != SQLITE_OK)
		r = schema_fail_db(schema, path, db, ret_error);
	else if (schema_is_unfinished(schema, db, path))
		goto out;
	else
		r = schema_identify(schema, db, path, &version, ret_error);
	/* While there is a log, the file alone needn't make sense. */
	if (r == 0 && !schema_has_log(path)) {
		r = schema_check(schema, db, version, path, ret_error);
		*ret_checked = r == 0;
	}
out:
	sqlite3_close(db);
	return r;
}

/* Without locks one may see what another process is just writing; but damage stays. */
static int schema_probe(const struct schema *schema, const char *path, bool *ret_checked, char **ret_error)
{
	static const struct timespec pause = {.tv_nsec = 30 * 1000 * 1000};
	char *uri = schema_uri(path);
	int r;

	if (!uri)
		return -ENOMEM;
	for (int tries = 3; (r = schema_look(schema, path, uri, ret_checked, ret_error)) < 0 && --tries > 0;) {
		free(*ret_error);
		*ret_error = NULL;
		nanosleep(&pause, NULL);
	}
	free(uri);
	return r;
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
