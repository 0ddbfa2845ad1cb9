/* SPDX-License-Identifier: MIT */
#ifndef MQFS_STATE_OUTBOX_INTERNAL_H
#define MQFS_STATE_OUTBOX_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "hash.h"

#include <mqfs/outbox.h>

#include "internal.h"

/* What a flight may hold in memory. */
enum {
	FLIGHT_MESSAGES_MAX = 256,
	FLIGHT_BYTES_MAX = 8 << 20,
};

struct flight;

/* A queue's line, as this mount knows it. */
struct line {
	int64_t id;
	char *queue;
	UT_hash_handle by_id, by_queue;

	/* Changed on the state's thread, under the outbox's lock. */
	struct mqfs_outbox_depth depth;

	/* sender.c, on the state's thread */
	struct flight *flight;
	bool probing;     /* nothing is known of the broker, or nothing good: one message at a time */
	int64_t retry_ms; /* not before */

	bool touched; /* watch.c: the oldest may be another */
};

/* An entry, as this mount has told it. */
struct known {
	int64_t id;
	struct line *line;
	int64_t body_bytes;
	bool waiting;
	bool refused; /* by the broker, just now: the watcher has to hear of it */
	unsigned scan;
	UT_hash_handle hh;
};

struct mqfs_outbox {
	struct state_member member; /* first: a member is an outbox */
	struct state_job farewell;  /* close's */
	atomic_uint references;     /* its owner's, each job's */

	/* Constant. */
	struct mqfs_state *state;
	struct mqfs_backend *backend;
	struct mqfs_outbox_limits limits;
	struct mqfs_outbox_watcher watcher;
	void *arg;

	/* A leaf. */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* on the monotonic clock: loaded, jobs, flights */
	/* Guarded by lock. */
	bool loaded; /* the first scan is over */
	int load_result;
	bool closing;
	int jobs; /* with the state */
	int flights;
	struct line *lines_by_queue;    /* changed on the state's thread only */
	struct mqfs_outbox_depth depth; /* of all */

	/* The state's thread's. */
	struct line *lines_by_id;
	struct known *known;
	int64_t seen;         /* the watcher has heard of all up to this revision */
	int64_t data_version; /* of the file, when other mounts were looked for */
	int64_t poll_ms;      /* when to look again */
	bool dirty;           /* we have changed something ourselves */
	unsigned scan;
};

struct mqfs_outbox *outbox_ref(struct mqfs_outbox *outbox);
void outbox_unref(struct mqfs_outbox *outbox);
/* Queues a job of the outbox's, which must call job_ended at the end of its done. */
void outbox_submit(struct mqfs_outbox *outbox, struct state_job *job);
void outbox_job_ended(struct mqfs_outbox *outbox);

/* ---- entries.c: rows (requests.c puts, changes and removes them); in a writing transaction, 0 or a negative errno
 * ---- */

/* A row, as a statement selects it with ENTRY_COLUMNS. */
#define ENTRY_COLUMNS                                                                                                  \
	"e.revision, e.id, e.kind, l.queue, e.priority, e.base, e.twin, e.mode, e.body_bytes, e.modified_at, "         \
	"e.due_at,"                                                                                                    \
	" e.spoiled, e.error, e.reason, e.position, l.id, l.flight_to, l.boot, l.lease_until, e.bytes"
#define ENTRY_FROM " FROM entry e CROSS JOIN line l ON l.id = e.line"
struct entry_row {
	struct mqfs_entry entry; /* valid as long as the statement stands on the row */
	mqfs_name_t name;
	int64_t revision, position, line, bytes;
};
void entry_read(struct mqfs_state *state, sqlite3_stmt *statement, struct entry_row *ret_row);
/* The row of an id: 1, 0 when there is none. The statement is to be reset. */
int entry_find(struct mqfs_state *state, int64_t id, struct entry_row *ret_row, sqlite3_stmt **ret_statement);
/* The next revision; bytes are added to what the file holds. */
int entry_revise(struct mqfs_state *state, int64_t bytes, int64_t *ret_revision);
/* Takes an entry out with all it has; sent: the broker has it. */
int entry_delete(struct mqfs_state *state, int64_t id, int64_t bytes, bool sent);
/* WAITING to KEPT. */
int entry_refuse(struct mqfs_state *state, int64_t id, int error, const char *reason);
/* The message of the head and body in these columns. 0, -EIO, -ENOMEM. */
int entry_decode(sqlite3_stmt *statement, int head_column, struct mqfs_message **ret_message);

/* ---- watch.c: what the watcher is told; on the state's thread, outside of transactions ---- */

/* Tells what is new in the file. 0 or a negative errno. */
int watch_sync(struct mqfs_outbox *outbox);
/* Everything anew: what isn't there any more is told as removed. */
int watch_scan(struct mqfs_outbox *outbox);
/* Has another mount changed the file since this was asked last? */
bool watch_news(struct mqfs_outbox *outbox);
/* The broker refused it; the watcher hears of it with the change. */
void watch_refused(struct mqfs_outbox *outbox, int64_t id);
void watch_free(struct mqfs_outbox *outbox);

/* ---- sender.c ---- */

/* Sends what can be sent; returns when it wants to run again. On the state's thread. */
int64_t sender_tick(struct mqfs_outbox *outbox, int64_t now_ms);
/* Ends the flights: leases end, and what is on the way is left to itself. On the state's thread. */
void sender_let_go(struct mqfs_outbox *outbox);
/* Does a flight of ours have it? That is so even when the lease has run out. On the state's thread. */
bool sender_has(struct mqfs_outbox *outbox, int64_t line, int64_t id);

#endif
