/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_MESSAGES_H
#define MQFS_SQLITE_MESSAGES_H

#include "internal.h"

/*
 * The life of a row of messages:
 *
 *   publish --> READY --take--> LEASED --ack--> (gone)
 *                ^ ^ \            |  \
 *                | |  \ expired   |   \ move
 *                |  \--\----------+    \
 *                |      \  release      v
 *     publish,   |       \---------> DEAD
 *       move --> RETRY --------------^
 *                (due: READY)  move
 *
 * A row keeps its id, by which messages of one priority are ordered, through all moves within its queue; so a
 * message that was retried or released keeps its age. Only a replay of a dead one and a forward start anew.
 *
 * All of these run within a writing transaction. A negative result is a failure that undoes the whole transaction.
 */

/* A row as somebody saw it: it is changed only if it is still the same. */
struct message_fence {
	int64_t id;
	int64_t generation;
	enum message_state state;
	int64_t mount; /* LEASED only */
};

/* Why queue takes no more just now, as a documented outcome: 0 or -ENOSPC. */
int message_admit(const struct queue *queue);

/* Adds message, which the caller has encoded into store->head. READY only makes room as overflow says. */
int message_insert(struct store *store, struct queue *queue, const struct mqfs_message *message, enum mqfs_place place,
                   int64_t delay_ms);

/* 1: done; 0: the row has moved on. */
int message_delete(struct store *store, struct queue *queue, const struct message_fence *fence);
/* LEASED to READY, as redelivered; RETRY to READY. */
int message_release(struct store *store, struct queue *queue, const struct message_fence *fence);
int message_wake(struct store *store, struct queue *queue, const struct message_fence *fence);
/* Its content becomes copy's, which the caller has encoded into store->head; body: also its body. */
int message_move(struct store *store, struct queue *queue, const struct message_fence *fence,
                 const struct mqfs_message *copy, bool body, enum mqfs_place place, int64_t delay_ms);

/* To the dead, with a reason of ours. 1 or 0 as above. */
int message_bury(struct store *store, struct queue *queue, const struct message_fence *fence, const char *reason);
/* Ends a message that its queue lets go: to the dead where dead_letter says so, else deleted. */
int message_end(struct store *store, struct queue *queue, const struct message_fence *fence, const char *reason);

/*
 * The delivery of the row that statement stands on (SELECT_WHOLE in statements.c). A head that can't be read is
 * replaced by one that says so; *ret_damaged.
 */
int message_read(sqlite3_stmt *statement, const char *queue, enum mqfs_place place, struct mqfs_delivery **ret_delivery,
                 bool *ret_damaged);

#endif
