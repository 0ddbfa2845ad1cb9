/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_GROUP_H
#define MQFS_SQLITE_GROUP_H

#include "internal.h"
#include "request.h"

/* Group commit: many requests, one transaction. */

enum { GROUP_PAUSE_MS = 1000 }; /* after a failure of our own work, before we try that again */

/* Makes a transaction of what is in the backlog, and feeds the consumers; completes what it did. -EAGAIN: another
 * process holds the lock, and what writes is still in the backlog. */
int group_commit(struct store *store, int64_t now_ms);

/* Does what only reads, while another process holds the lock. */
void group_read(struct store *store);

void group_complete(struct request *list);
/* All of the list, with the same result. */
void group_fail(struct request *list, int result);
/* Remembers for the status whether the store works: 0 or a negative errno. */
void group_note(struct store *store, int result);
/* The text for an outcome of the store's as a whole. */
const char *group_reason(int result);

#endif
