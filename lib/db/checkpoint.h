/* SPDX-License-Identifier: MIT */
#ifndef MQFS_DB_CHECKPOINT_H
#define MQFS_DB_CHECKPOINT_H

#include <stdint.h>

#include <sqlite3.h>

/*
 * Moves the write-ahead log into the file: when it has grown long, and when the file is idle. Between
 * the two a page that changes in every transaction (the counts, the ends of tables) is written to the file once.
 *
 * One connection's, on the thread that owns it. The busy handler is here too, since a checkpoint waits for
 * others a while.
 */
struct checkpoint {
	sqlite3 *db;
	sqlite3_stmt *page_count;
	int64_t busy_until_ms; /* how long the busy handler waits; whoever begins a transaction sets it */
	int64_t page_bytes;
	/* What the file has room for, as far as known: a checkpoint of anybody's cuts off what no commit has come to
	 * use. So it is 0 after a rollback. */
	int64_t reserved_pages;
	int64_t committed_ms;
	int log_pages; /* in the write-ahead log, not yet all in the file */
};

/* From a zeroed struct; it stays where it is until deinit, which comes before the connection is closed. 0 or a negative
 * errno. */
int checkpoint_init(struct checkpoint *checkpoint, sqlite3 *db);
void checkpoint_deinit(struct checkpoint *checkpoint);
/* When it wants to run (monotonic ms, MQFS_NEVER). */
int64_t checkpoint_next(const struct checkpoint *checkpoint);
void checkpoint_run(struct checkpoint *checkpoint, int64_t now_ms);
/*
 * Before a commit: makes sure of room in the file for all that is in the log. 0, -ENOSPC, …
 */
int checkpoint_reserve(struct checkpoint *checkpoint);
/* The disk is full: what is in the log makes room there, once it is in the file. */
void checkpoint_make_room(struct checkpoint *checkpoint);

#endif
