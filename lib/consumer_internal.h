/* SPDX-License-Identifier: MIT */
#ifndef MQFS_CONSUMER_INTERNAL_H
#define MQFS_CONSUMER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include <mqfs/clock.h>
#include <mqfs/consumer.h>
#include <mqfs/records.h>

#include "hash.h"
#include <utlist.h>

/*
 * How the consumer works
 *
 * The window is a hash of `held`, by file name. Names grow, and uthash keeps the order of insertion,
 * so walking it is walking in order of name. What is PENDING is also in a list, most urgent first.
 *
 * Every entry point takes the lock (consumer_enter), changes state, and writes down in consumer->work
 * what has to happen outside: settlements for the backend, waiters to answer, memory to free, threads
 * to wake. consumer_leave() lets the lock go and does it. So no call leaves this module with the lock
 * held, and each is made by the thread that caused it.
 *
 * An outcome has two parts: what is wanted (`decided`, `how`), and what is being tried at the backend
 * (`in_flight`, `disposition`). They differ when a new outcome replaces one that could not be done.
 *
 * A lost connection detaches what was taken (`detached`): it has no tag at the broker until its very
 * copy is delivered again and is attached to the old entry (consumer_lost.c, rule C9), or its outcome is on the
 * disk (consumer_recall.c).
 *
 * Memory: one reference for the owner, one while the backend may call the sink, and one for each
 * settlement in flight.
 */

#define CONSUMER_STOCKED_MS 250       /* the longest wait of a first look */
#define CONSUMER_GATHER_MS 20         /* a first look waits so long for one more */
#define CONSUMER_AGAIN_MS 3000        /* between two tries of an outcome */
#define CONSUMER_RECORD_MS 3600000    /* how long a detached delivery may be recognised */
#define CONSUMER_STALE_MS 1000        /* how long a claim that can't be settled is still listed (fails with ESTALE) */
#define CONSUMER_TAKE_MS 500          /* a take that lasts so long is recorded */
#define CONSUMER_RECALL_MS 5000       /* a redelivery waits so long for what the disk knows of it */
#define CONSUMER_TOLD 1024            /* acknowledgements that may be on their way */
#define CONSUMER_TOLD_MS 60000        /* and for how long: a dead connection is noticed before */
#define CONSUMER_WARY 1000            /* takes of redelivered ones that are recorded at once, in the beginning */
#define CONSUMER_TIMEOUT_GAP_MS 60000 /* how long before the broker's consumer-timeout a claim ends */

/* A delivery of the window. All fields are guarded by consumer->lock, but consumer and delivery, which are constant. */
struct held {
	struct mqfs_consumer *consumer;
	struct mqfs_delivery *delivery; /* a reference */
	int64_t delivered_ms;           /* the latest delivery of this copy */

	bool decided;   /* an outcome is wanted: how */
	bool in_flight; /* the backend tries disposition; then it may not be freed, nor its tag replaced */
	bool replaced;  /* how was changed after the try began */
	bool counted;   /* the outcome is in the counters already */
	enum mqfs_settlement how;
	struct mqfs_disposition disposition;
	int64_t deadline_ms; /* of the try */
	int64_t again_ms;    /* decided, but not in flight nor detached: when to try again */
	bool late;           /* delivery->error says why the outcome failed; the failure's own reason is in cause */
	char *cause;
	mqfs_done_fn *forwarded; /* in_flight, and a forward: who waits for it */
	void *forwarded_arg;
	bool replaces; /* in_flight, and a forward: of what is decided, which is wanted again if this fails */
	bool apart;    /* in_flight, and a forward of a detached one: its copy is published, and that is all */

	bool detached;
	int64_t detached_ms;
	struct mqfs_delivery *successor; /* its copy came again while the old try was still in flight; a reference */

	/* consumer_recall.c */
	bool noted;         /* the state file knows something of this copy */
	bool outcome_noted; /* namely an outcome */
	bool take_noted;    /* also of this take */
	bool take_counts;   /* given back, it is a failed attempt all the same */
	bool worn_out;      /* its attempts were used up before it was listed */
	int64_t note_ms;    /* when this take will have lasted long enough to be noted */
	unsigned recording; /* how often its outcome is on its way to the disk */
	mqfs_done_fn *kept; /* who waits for that, or for its end, whichever is first */
	void *kept_arg;

	UT_hash_handle hh;
	struct held *previous, *next; /* in consumer->pending */
	struct held *also;            /* in a list of consumer->work */
};

/* Somebody who waits until nothing is consumed and nothing in flight (mqfs_consumer_stop). */
struct consumer_stop {
	mqfs_done_fn *done;
	void *arg;
	struct consumer_stop *next;
};

/* A question to the records, or an order: what its completion is about, as references. */
struct consumer_recall {
	struct mqfs_consumer *consumer;
	struct mqfs_delivery *delivery;
};

/* An acknowledgement that was sent; see consumer_told.c. */
struct told {
	char *id; /* NULL: none */
	char *copy;
	uint64_t generation;
	int64_t at_ms;
};

/* What to do when the lock is let go. */
struct consumer_work {
	struct consumer_stop *stopped;
	struct held *settle, *settle_last; /* in the order of the decisions */
	struct held *gone;
	struct mqfs_waiter *served;
	bool pending;
	bool wake;
};

enum consumer_mode {
	CONSUMER_OFF,
	CONSUMER_ON,         /* the backend was told to consume; the sink may be called */
	CONSUMER_CANCELLING, /* and then to cancel, which has not completed */
};

enum waiter_kind { WAITER_NONE, WAITER_STOCKED, WAITER_CLAIM };

struct mqfs_consumer {
	/* constant */
	struct mqfs_backend *backend;
	struct mqfs_records *records; /* may be NULL: nothing outlives the process */
	char *queue;
	char host[256];
	bool patient; /* the backend knows no consumer-timeout */

	atomic_uint references;

	pthread_mutex_t lock;
	/* everything below is guarded by lock */
	struct mqfs_settings settings;
	struct mqfs_counters *counters;
	struct held *window;  /* uthash, by name, in order of name */
	struct held *pending; /* most urgent first */
	int64_t counts[MQFS_DELIVERY_STATES];
	int64_t held_count;     /* of those that are not detached: what prefetch bounds */
	int64_t detached_count; /* of those that are */
	int64_t in_flight_count;
	struct told *told; /* a ring of CONSUMER_TOLD, NULL before the first */
	size_t told_next;
	struct mqfs_waiter *claims, *stocked;
	struct consumer_stop *stops;

	enum consumer_mode mode;
	bool wanted;   /* consuming is wanted */
	bool ended;    /* the backend gave it up, and was not told to cancel yet */
	bool closing;  /* mqfs_consumer_free was called */
	bool draining; /* mqfs_consumer_drain was called */
	bool steering; /* a thread is calling consume or cancel */
	bool drained;  /* since consuming was wanted, the queue was seen empty */
	int prefetch_told;
	int prepared;
	int64_t started_ms; /* when consuming was wanted */
	int64_t touched_ms;
	int64_t newest_ms; /* when something was last listed */
	int wary;          /* how many takes are still recorded at once */

	int64_t next_due_ms;
	struct consumer_work work;
	void (*notify)(void *arg); /* on_pending */
	void *notify_arg;
	void (*wake)(void *arg); /* on_due */
	void *wake_arg;
};

/* Everything below, but enter, ref and unref, is called with the lock held. */

/* consumer_window.c */
void consumer_ref(struct mqfs_consumer *consumer);
void consumer_unref(struct mqfs_consumer *consumer);
void consumer_enter(struct mqfs_consumer *consumer);
void consumer_leave(struct mqfs_consumer *consumer); /* lets the lock go */
void consumer_due(struct mqfs_consumer *consumer, int64_t due_ms);
/* Renews idle-release; want also starts consuming. */
void consumer_touched(struct mqfs_consumer *consumer, int64_t now_ms);
void consumer_want(struct mqfs_consumer *consumer, int64_t now_ms);
struct held *consumer_held(struct mqfs_consumer *consumer, const struct mqfs_delivery *delivery);
/* Holds a new delivery as ARRIVING and takes its reference over. NULL: out of memory (nothing changed). */
struct held *consumer_hold(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery);
/* Lists it as PENDING. */
void consumer_show(struct held *held);
void consumer_move(struct held *held, enum mqfs_delivery_state to);
/* It leaves the window as SETTLED or LOST. Not in flight. */
void consumer_drop(struct held *held, enum mqfs_delivery_state to);
void consumer_take(struct held *held, const char *claimed_by);
/* It is claimed from now on, until claim-timeout or the limit below. */
void consumer_begin_claim(struct held *held, int64_t now_ms);
/* The last moment at which the broker lets it be held, and at which it may lie untaken. */
int64_t consumer_limit_ms(const struct held *held);
int64_t consumer_pending_end_ms(const struct held *held);
/* Replaces the failure's reason; text is taken over and may be NULL. */
void consumer_set_cause(struct held *held, char *text);

/* consumer_sink.c: consuming starts and stops */
enum consumer_step { CONSUMER_STEP_NONE, CONSUMER_STEP_CONSUME, CONSUMER_STEP_CANCEL };
enum consumer_step consumer_next_step(const struct mqfs_consumer *consumer);
void consumer_steer(struct mqfs_consumer *consumer); /* without the lock */

/* consumer_settle.c */
/* Wants an outcome: begins it, replaces the one in flight, or keeps it for the redelivery. 0 or -ENOMEM
 * (nothing changed). */
int consumer_decide(struct held *held, enum mqfs_settlement how);
const char *consumer_failure_reason(const struct held *held); /* may be NULL */
void consumer_try_again(struct held *held);
/* Gives back everything that is PENDING, and when closing what is CLAIMED too. */
void consumer_give_back(struct mqfs_consumer *consumer);
/* Calls the backend for what was begun; without the lock. */
void consumer_issue(struct held *settle);

/* consumer_lost.c */
bool consumer_recognisable(const struct held *held);
void consumer_detach(struct held *held);
void consumer_lose(struct mqfs_consumer *consumer, uint64_t generation);
/* Lets go what is detached and undecided: the broker has it, and nobody here works on it any more. */
void consumer_abandon(struct mqfs_consumer *consumer);
/* true: the delivery is the copy of a detached one; its reference was taken over. */
bool consumer_reattach(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery);
/* Its copy came again: the entry goes on with its tag. Not in flight. Takes the reference over. */
void consumer_adopt(struct held *held, struct mqfs_delivery *redelivery);

/* consumer_recall.c */
/* Writes down what was decided about a detached one; when that is on the disk it leaves the window. */
void consumer_record(struct held *held);
/* Another outcome is wanted than the one that the state file may have. */
void consumer_amend(struct held *held);
/* It was taken just now; or long enough ago; or is given back, and that take doesn't count, or does (R1, R6). */
void consumer_took(struct held *held, int64_t now_ms);
void consumer_note_take(struct held *held);
void consumer_take_back(struct held *held);
void consumer_count_take(struct held *held);
/* It leaves the window as SETTLED or LOST: the state file forgets what is over. */
void consumer_forget(struct held *held, enum mqfs_delivery_state to);
/* R6: failed and unsettled attempts together are all that it has, and dead/ exists. */
bool consumer_is_worn_out(const struct held *held);
/* true: it was redelivered, and stays ARRIVING until it is known what is known of it. */
bool consumer_recall(struct held *held);

/* consumer_told.c */
/* It is settled, as far as its backend says. */
void consumer_told(struct held *held);
/* What was told through these connections is written down. */
void consumer_told_lost(struct mqfs_consumer *consumer, uint64_t generation);
void consumer_told_free(struct mqfs_consumer *consumer); /* without the lock */

/* consumer_wait.c */
bool consumer_is_stocked(const struct mqfs_consumer *consumer, int64_t now_ms);
/* Answers whom it can. Returns when those who look are answered at the latest. */
int64_t consumer_serve(struct mqfs_consumer *consumer, int64_t now_ms);
/* Answers the claims with result, looks with 0. */
void consumer_fail_waiters(struct mqfs_consumer *consumer, int result);

#endif
