/* SPDX-License-Identifier: MIT */
#ifndef MQFS_CONSUMER_H
#define MQFS_CONSUMER_H

#include <stdbool.h>
#include <stdint.h>

#include <mqfs/backend.h>
#include <mqfs/counters.h>
#include <mqfs/delivery.h>
#include <mqfs/records.h>
#include <mqfs/settings.h>

/*
 * The consuming side of one queue on this mount: the window of at most prefetch deliveries, who took
 * which, and when each goes back (C1..C10, R1, R6). It moves deliveries through their states and
 * hands the broker's work to the backend.
 *
 * Every function is thread-safe, takes the consumer's own lock for a moment and never blocks. No lock
 * is held while it calls back or calls the backend. Lock order: fs's tree lock, then this one.
 */
struct mqfs_consumer;

/* counters are used until free. settings are copied; see mqfs_consumer_configure. records (may be NULL: then nothing is
 * known over a restart) must be closed after the backend. NULL: out of memory. */
struct mqfs_consumer *mqfs_consumer_new(struct mqfs_backend *backend, const char *queue,
                                        const struct mqfs_settings *settings, struct mqfs_counters *counters,
                                        struct mqfs_records *records);
/*
 * Stops consuming, gives back what is pending and claimed, fails the waiters with -ESHUTDOWN. The backend must still be
 * open. What is called afterwards finds nothing.
 */
void mqfs_consumer_end(struct mqfs_consumer *consumer);
/* Ends it, and where that was done before may follow when the backend is closed. The memory goes when the last
 * completion has run. */
void mqfs_consumer_free(struct mqfs_consumer *consumer);
void mqfs_consumer_configure(struct mqfs_consumer *consumer, const struct mqfs_settings *settings);

/*
 * Q3: stops consuming and gives back what is pending; claims stay. done runs with 0 when the backend has done both and
 * nothing is being settled any more, with -ESHUTDOWN when the consumer is freed first; perhaps inside this call. The
 * next touch starts consuming again; who waits goes on waiting, for one of these two, which tell what came of it:
 */
void mqfs_consumer_stop(struct mqfs_consumer *consumer, mqfs_done_fn *done, void *arg);
/* The queue stays: consuming starts again if anybody waits. */
void mqfs_consumer_resume(struct mqfs_consumer *consumer);
/* It is deleted: fails the waiters with -ENOENT. */
void mqfs_consumer_gone(struct mqfs_consumer *consumer);

/*
 * The mount is ending (M1): from now on nothing is taken (-ESHUTDOWN, waiters too), what is pending goes back, claims
 * can be settled as before. For good. mqfs_consumer_state_of tells what is left.
 */
void mqfs_consumer_drain(struct mqfs_consumer *consumer);

/* Somebody looked at pending/ or claimed/: consuming starts unless it is on, and idle-release begins anew. */
void mqfs_consumer_touch(struct mqfs_consumer *consumer);

/*
 * A wait for something of the window. The caller owns the memory, which stays until done has run or
 * cancel has returned true. done runs exactly once, on any thread (never inside the call that began the wait: instead
 * that call returns a result), with no lock held.
 */
struct mqfs_waiter {
	void (*done)(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery);
	/* the consumer's own */
	int kind;
	char claimed_by[64];
	int result;
	struct mqfs_delivery *delivery;
	struct mqfs_waiter *previous, *next;
};

/*
 * Waits until a look at pending/ can be answered: something is there, or the queue is known to be
 * empty, or 0.25 s have gone since consuming started. Returns 1 when that is so now (done is not called),
 * 0 when waiting: done then runs with result 0. Touches.
 */
int mqfs_consumer_wait_stocked(struct mqfs_consumer *consumer, struct mqfs_waiter *waiter);

/*
 * Takes the most urgent pending delivery (highest priority, then oldest) for claimed_by. Returns 1 with *ret_delivery
 * (a reference, CLAIMED), or 0 when waiting: done then gets the same. Waits without a deadline, until cancelled. With
 * wait false: -EAGAIN instead of waiting. Touches.
 */
int mqfs_consumer_claim(struct mqfs_consumer *consumer, const char *claimed_by, bool wait, struct mqfs_waiter *waiter,
                        struct mqfs_delivery **ret_delivery);
/* true: the wait is over and done will not run. false: done has run or is running. */
bool mqfs_consumer_cancel_wait(struct mqfs_consumer *consumer, struct mqfs_waiter *waiter);

/* Is something pending right now (poll(2))? And a call each time that may have become true. */
bool mqfs_consumer_has_pending(struct mqfs_consumer *consumer);
void mqfs_consumer_on_pending(struct mqfs_consumer *consumer, void (*notify)(void *arg), void *arg);

/* Calls each, under the consumer's lock, for every delivery listed in state PENDING or CLAIMED, in order of
 * name. Touches. each must not call the consumer. */
void mqfs_consumer_list(struct mqfs_consumer *consumer, enum mqfs_delivery_state state,
                        void (*each)(struct mqfs_delivery *delivery, void *arg), void *arg);

/* The same without a touch (tenet 2). */
void mqfs_consumer_peek(struct mqfs_consumer *consumer, enum mqfs_delivery_state state,
                        void (*each)(struct mqfs_delivery *delivery, void *arg), void *arg);

/* Finds what is PENDING or CLAIMED by its file name; a reference, or NULL. *ret_state may be NULL. */
struct mqfs_delivery *mqfs_consumer_find(struct mqfs_consumer *consumer, const char *name,
                                         enum mqfs_delivery_state *ret_state);
enum mqfs_delivery_state mqfs_consumer_state(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery);

/* Runs fn under the consumer's lock, e.g. to read the guarded fields. */
void mqfs_consumer_with(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery,
                        void (*fn)(struct mqfs_delivery *delivery, void *arg), void *arg);

/*
 * C3: PENDING becomes CLAIMED. Of all callers one gets 0; -EBUSY when it is taken, -ENOENT when it is gone.
 * owner (may be NULL) becomes delivery->owner on success only.
 */
int mqfs_consumer_take(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, const char *claimed_by,
                       void *owner, void (*owner_free)(void *owner));
/* Gives a CLAIMED delivery that has none an owner (claim and next). */
void mqfs_consumer_set_owner(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, void *owner,
                             void (*owner_free)(void *owner));

/* C8: the claim lasts claim-timeout from now. 0, -ETIME when consumer-timeout forbids it, -ENOENT, -EPERM untaken. */
int mqfs_consumer_extend(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery);

/* C6: the reason, at most the last 4096 bytes kept. 0, -ENOENT, -ENOMEM. */
int mqfs_consumer_set_error(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, const void *text,
                            size_t bytes);

enum mqfs_settlement {
	MQFS_SETTLE_ACK,
	MQFS_SETTLE_RELEASE, /* given back, nothing counted */
	MQFS_SETTLE_RETRY,   /* failed: R1 decides between retry and dead */
	MQFS_SETTLE_BURY,    /* failed for good */
	MQFS_SETTLE_ABANDON, /* its taker was killed: one attempt counted, back at once (dead when none is left) */
};

/*
 * C5: takes the outcome over and answers at once. A PENDING delivery is taken and settled in one step (but -EPERM
 * for ACK: nobody took it). -ENOENT when gone; -EBUSY for ABANDON when an outcome is being tried, which stands; -EACCES
 * for RETRY and BURY when the backend could not prepare these places; -ESTALE when its connection was lost and it can't
 * be recognised when it comes back (C9). If the backend fails it later, the delivery is listed as CLAIMED again with
 * the reason in its error, and the outcome is tried again every few seconds until it is done or replaced by another.
 */
int mqfs_consumer_settle(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, enum mqfs_settlement how);

/*
 * As above, for who wants to say that it is settled. seen is the state in which the caller found it, and judged who may
 * settle it: -EBUSY when it was PENDING, and somebody has taken it since. After a lost connection the outcome can't be
 * told to the broker, and must not be forgotten: then it returns 1, and done runs, on another thread, when the outcome
 * is on the disk (0), or can't be: -ENOSPC, -EIO, …, and the delivery is CLAIMED as before; or when the broker was told
 * meanwhile (0), or can't be told any more (-ESTALE). Else it returns as settle does, and done does not run.
 */
int mqfs_consumer_settle_durably(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery,
                                 enum mqfs_delivery_state seen, enum mqfs_settlement how, mqfs_done_fn *done,
                                 void *arg);

/*
 * Forwards: published and confirmed in queue, then acknowledged here. seen: as above. priority -1: its own. 0: done
 * will run, with the outcome (a failure leaves the delivery as it was, CLAIMED); else a negative errno at once:
 * -ENOENT, -ESTALE, -EBUSY. A PENDING one is taken first.
 */
int mqfs_consumer_forward(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, enum mqfs_delivery_state seen,
                          const char *queue, int priority, int64_t deadline_ms, mqfs_done_fn *done, void *arg);

/* A new meta.json string for a delivery of this consumer; NULL when out of memory. */
char *mqfs_consumer_meta(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery);

struct mqfs_consumer_state {
	bool consuming;
	int64_t pending;
	int64_t claimed;
	int64_t settling;          /* outcomes that the backend is being told just now */
	int64_t oldest_pending_ms; /* age, 0 when none */
	int prepared;              /* 0, or why retry/ and dead/ can't be used */
};
void mqfs_consumer_state_of(struct mqfs_consumer *consumer, struct mqfs_consumer_state *ret_state);

/* Does what is due (claim, pending and idle time-outs, retried outcomes, looks that waited long enough) and returns
 * when it wants to be called next (monotonic ms, MQFS_NEVER). Called from one thread. on_due is called when something
 * new is due earlier than the last answer; it only wakes that thread. */
int64_t mqfs_consumer_tick(struct mqfs_consumer *consumer, int64_t now_ms);
void mqfs_consumer_on_due(struct mqfs_consumer *consumer, void (*wake)(void *arg), void *arg);

#endif
