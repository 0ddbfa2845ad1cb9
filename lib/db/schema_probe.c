/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "schema_internal.h"

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

enum { HEADER_BYTES = 100, APPLICATION_ID_AT = 68 }; /* of the file */

static uint32_t get_u32(const unsigned char *bytes)
{
	return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
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
int schema_probe(const struct schema *schema, const char *path, bool *ret_checked, char **ret_error)
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
