/* SPDX-License-Identifier: MIT */
#ifndef MQFS_LOOK_INTERNAL_H
#define MQFS_LOOK_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include <mqfs/clock.h>
#include <mqfs/look.h>

#include "hash.h"
#include <utlist.h>

/*
 * How a look works
 *
 * With a backend that can read without taking (looks_hold is false), a listing is a snapshot and a
 * settlement goes to the backend as it is.
 *
 * With one that can't, a listing is a set of held messages, and others can't have them meanwhile:
 *
 *              browse                5 s unused, or 15 s          as long as they were held
 *   IDLE --------------> HOLDING -----------------------> RESTING --------------------------> IDLE
 *                         |    ^      put back                |
 *                         +----+                              | settle: browse for the one it wants,
 *                       browse for more                       v and hold the rest for 1 s
 *                                                          HOLDING
 *
 * While resting, the listing is answered from memory. A settlement of what is no longer held waits
 * (`wanted`) for a browse that finds the same message again.
 *
 * The lock is used as in consumer.c: look_enter, changes and notes in look->work, look_leave, which does what
 * was noted without the lock.
 */

#define LOOK_SNAPSHOT_MS 200    /* how old a listing may be */
#define LOOK_ANSWER_MS 1000     /* the longest wait of a refresh */
#define LOOK_PATIENCE_MS 150    /* the longest wait beside a broker that says nothing at all, */
#define LOOK_SILENT_MS 100      /* for so long */
#define LOOK_ASK_MS 20          /* between two questions whether it does */
#define LOOK_UNUSED_MS 5000     /* R5 */
#define LOOK_HOLD_MS 15000      /* R5 */
#define LOOK_HOLD_AGAIN_MS 1000 /* when a rest is interrupted by a settlement */

/* A message that is listed. Guarded by look->lock. */
struct look_item {
	struct mqfs_delivery *delivery; /* a reference */
	bool held;                      /* from others: to be put back */
	bool busy;                      /* a request has it */
	unsigned twins;                 /* while a listing is installed: the number of its last twin; 0: none yet */
	UT_hash_handle hh;              /* by delivery->name */
};

/* A refresh that waits for a browse. */
struct look_waiter {
	mqfs_done_fn *done;
	void *arg;
	int64_t patience_ms;
	int64_t deadline_ms;
	int result;
	struct look_waiter *previous, *next;
};

/* A settlement. Guarded by look->lock, but for what is constant. */
struct look_request {
	/* constant */
	struct mqfs_look *look;
	char *queue; /* REPLAY; NULL: its own */
	int priority;
	int64_t deadline_ms;
	mqfs_done_fn *done;
	void *arg;

	struct mqfs_delivery *delivery; /* a reference: what the caller found, then what is settled */
	enum mqfs_look_verb verb;
	bool again; /* its hold was over; it was looked for once more */
	bool moved; /* the copy is safe, only the original has to go: nothing can fail any more */
	struct mqfs_disposition disposition;
	int result;
	const char *reason; /* valid only in the completion that brought it */
	struct look_request *previous, *next;
};

struct look_work {
	size_t browse;                 /* how many; 0: no browse */
	struct mqfs_delivery *release; /* references, by next */
	struct look_request *settle;   /* utlist */
	struct look_request *finished; /* utlist */
	struct look_waiter *answered;  /* utlist */
	bool wake;
};

enum look_phase { LOOK_IDLE, LOOK_HOLDING, LOOK_RESTING };

struct mqfs_look {
	/* constant */
	struct mqfs_backend *backend;
	char *queue;
	enum mqfs_place place;
	bool holds;

	atomic_uint references; /* the owner's, each browse's and request's in flight, each look_leave's */

	pthread_mutex_t lock;
	/* everything below is guarded by lock */
	struct mqfs_settings settings;
	struct mqfs_counters *counters;
	struct look_item *items; /* uthash, in order of name */
	size_t held_count;
	enum look_phase phase;
	bool browsing;
	bool closing;
	int64_t browsed_ms; /* the listing's time; 0: it is old */
	int64_t since_ms;   /* HOLDING */
	int64_t access_ms;
	int64_t hold_ms; /* at most, all in all */
	int64_t rest_ms; /* RESTING: until then */
	struct look_waiter *waiters;
	struct look_request *wanted; /* wait for a browse */

	int64_t next_due_ms;
	struct look_work work;
	void (*wake)(void *arg);
	void *wake_arg;
};

/* Everything below is called with the lock held, but ref, unref and enter. */

/* look.c */
void look_ref(struct mqfs_look *look);
void look_unref(struct mqfs_look *look);
void look_enter(struct mqfs_look *look);
void look_leave(struct mqfs_look *look); /* lets the lock go */
void look_due(struct mqfs_look *look, int64_t due_ms);
void look_answer(struct mqfs_look *look, struct look_waiter *waiter, int result);

/* look_browse.c */
/* Begins a browse unless one is under way. false: everything that may be held is held. */
bool look_browse(struct mqfs_look *look);
void look_browse_issue(struct mqfs_look *look, size_t limit); /* without the lock */
void look_release_issue(struct mqfs_look *look, struct mqfs_delivery *release);
/* What the clock brings: puts back, rests, forgets what has left retry/ by itself. Returns when it wants to be
 * called next. */
int64_t look_age(struct mqfs_look *look, int64_t now_ms);
void look_put_back(struct mqfs_look *look, int64_t now_ms);
/* Gives the item back, if it is held; it stays listed. */
void look_release(struct mqfs_look *look, struct look_item *item);
void look_unlist(struct mqfs_look *look, struct look_item *item);

/* look_settle.c */
void look_finish(struct look_request *request, int result, const char *reason);
void look_settle_issue(struct look_request *settle); /* without the lock */
void look_tell_finished(struct look_request *finished);
/* A browse has ended: serves the requests that waited for it. */
void look_serve_wanted(struct mqfs_look *look, int result);

#endif
