/* SPDX-License-Identifier: MIT */
#include "statement.h"

#include <errno.h>

#define LOG_TOPIC "sqlite"
#include <mqfs/log.h>

int statement_step(sqlite3_stmt *statement)
{
	int result;

	if (!statement)
		return -ENOMEM;
	errno = 0;
	result = sqlite3_step(statement);
	if (result == SQLITE_ROW)
		return 1;
	if (result == SQLITE_DONE) {
		sqlite3_reset(statement);
		return 0;
	}
	log_debug("%s: %s", sqlite3_sql(statement), sqlite3_errmsg(sqlite3_db_handle(statement)));
	/* Before the reset, which may lose what the system said. */
	result = statement_errno(sqlite3_db_handle(statement));
	sqlite3_reset(statement);
	return result;
}

int statement_run(sqlite3_stmt *statement)
{
	int r = statement_step(statement);

	if (r == 1)
		sqlite3_reset(statement);
	return r < 0 ? r : 0;
}

int statement_integer(sqlite3_stmt *statement, int64_t fallback, int64_t *ret_value)
{
	int r = statement_step(statement);

	if (r < 0)
		return r;
	*ret_value = fallback;
	if (r == 1) {
		if (sqlite3_column_type(statement, 0) != SQLITE_NULL)
			*ret_value = sqlite3_column_int64(statement, 0);
		sqlite3_reset(statement);
	}
	return 0;
}

void statement_bind_bytes(sqlite3_stmt *statement, int index, const void *data, size_t bytes)
{
	sqlite3_bind_blob64(statement, index, bytes > 0 ? data : "", bytes, SQLITE_STATIC);
}

/* SQLite itself does not note what the system said to a COMMIT. */
static int errno_of_system(sqlite3 *db)
{
	int error = sqlite3_system_errno(db);

	switch (error ? error : errno) {
	case ENOSPC:
	case EDQUOT:
		return -ENOSPC;
	case EROFS:
		return -EROFS;
	case EACCES:
	case EPERM:
		return -EACCES;
	}
	return -EIO;
}

int statement_errno(sqlite3 *db)
{
	int extended = sqlite3_extended_errcode(db);

	if (extended == SQLITE_IOERR_NOMEM)
		return -ENOMEM;
	switch (extended & 0xff) {
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EAGAIN;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return -EACCES;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_TOOBIG:
		return -EFBIG;
	case SQLITE_CANTOPEN:
	case SQLITE_IOERR:
		return errno_of_system(db);
	}
	return -EIO;
}
