/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_FUZZ_DATABASE_H
#define MQFS_TESTS_FUZZ_DATABASE_H

#include "fuzz.h"

/*
 * Files of SQLite that somebody else has had in his hands (database.c). They lie in memory (/dev/shm) where that is
 * possible: mqfs synchronises what it writes.
 */

/* A directory of this process's own, which goes with it unless it crashes. */
const char *database_room(void);

/* A file and its write-ahead log. */
struct database {
	unsigned char *bytes[2]; /* NULL: no such file */
	size_t counts[2];
};

void database_read(const char *path, struct database *ret_database);
void database_free(struct database *database);
/* And removes what SQLite may have left beside another file of that name. */
void database_write(const char *path, const struct database *database);
/* Smaller pages: fewer bytes for the fuzzer to get lost in. The file must be closed. */
void database_shrink(const char *path);

/* Does to the file in path what the input says, with SQL and with single bytes. Its log is left behind half of the
 * time. */
void database_spoil(const char *path, struct input *input);

/* Are the file and its log as they were, and has nothing come beside them? An empty log, and the index of a log that
 * was there before, hold nothing. */
bool database_same(const char *path, const struct database *before);

#endif
