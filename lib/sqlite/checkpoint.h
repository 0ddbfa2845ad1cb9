/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_CHECKPOINT_H
#define MQFS_SQLITE_CHECKPOINT_H

#include "internal.h"

/*
 * Moves the write-ahead log into the file: when it has grown long, and when the store is idle. Between
 * the two a page that changes in every transaction (the counts, the ends of tables) is written to the file once.
 */
/* 0 or a negative errno. */
int checkpoint_init(struct store *store);
/* When it wants to run (monotonic ms, MQFS_NEVER). */
int64_t checkpoint_next(const struct store *store);
void checkpoint_run(struct store *store, int64_t now_ms);
/*
 * Before a commit: makes sure of room in the file for all that is in the log. 0, -ENOSPC, …
 */
int checkpoint_reserve(struct store *store);
/* The disk is full: what is in the log makes room there, once it is in the file. */
void checkpoint_make_room(struct store *store);

#endif
