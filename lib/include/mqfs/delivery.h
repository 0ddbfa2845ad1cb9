/* SPDX-License-Identifier: MIT */
#ifndef MQFS_DELIVERY_H
#define MQFS_DELIVERY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <mqfs/message.h>
#include <mqfs/name.h>

/*
 * A delivery: one attempt to consume a message, held from the broker and not yet settled. A look at
 * retry/ or dead/ holds deliveries too, which are never taken.
 *
 *   ARRIVING  not listed: what this host remembers of a redelivered copy is looked up (C9, R6)
 *      |  \__________________________________________
 *      | list it                                     \ its outcome is known, or its attempts are used up
 *      v          take                 settle         v      done
 *   PENDING -------------> CLAIMED -------------> SETTLING --------> SETTLED
 *      |  \___________________^  |  ^                |  |
 *      |     give back, move     |  \________________/  |
 *      |     (one step: SETTLING)|      not done        |
 *      +-------------------------+----------------------+--> LOST (also from ARRIVING)
 *                    the connection or the lease is over
 *
 * mqfs_delivery_may() is the table; the consumer (consumer.c) is the only one that moves a delivery.
 * A draft's life (fs/draft.c) is another machine; neither drives the other.
 */
enum mqfs_delivery_state {
	MQFS_DELIVERY_PENDING,
	MQFS_DELIVERY_CLAIMED,
	MQFS_DELIVERY_SETTLING,
	MQFS_DELIVERY_SETTLED,
	MQFS_DELIVERY_LOST,
	MQFS_DELIVERY_ARRIVING,
	MQFS_DELIVERY_STATES
};

/* Where in the life of a queue a message lies. */
enum mqfs_place {
	MQFS_PLACE_READY, /* in the work queue */
	MQFS_PLACE_RETRY, /* waiting out a delay, then back to READY by itself */
	MQFS_PLACE_DEAD,
};

struct mqfs_delivery {
	atomic_uint references;

	/* Set by the backend before it hands the delivery up; then constant. */
	struct mqfs_message *message; /* owned */
	char *queue;                  /* the work queue's name, also for RETRY and DEAD; owned */
	char *exchange;               /* owned; may be NULL */
	char *routing_key;            /* owned; may be NULL */
	enum mqfs_place place;        /* where it was taken from */
	bool redelivered;
	int64_t delivery_count; /* earlier deliveries as the backend counts them, -1 when it doesn't */
	int64_t delivered_ms;   /* monotonic */
	int64_t next_at_us;     /* RETRY: real time of its return, 0 when unknown */

	/* The backend's own. AMQP: connection generation, channel and delivery tag; SQLite: lease
	 * generation and row. The consumer replaces them, under its lock, when a lost claim comes back (C9). */
	uint64_t generation;
	uint64_t tag;
	uint32_t channel;

	/* Guarded by the lock of the consumer or look that lists it. */
	enum mqfs_delivery_state state;
	mqfs_name_t name;    /* its file name; constant once listed */
	int64_t claimed_us;  /* real time of the take, 0 before */
	int64_t expires_ms;  /* monotonic end of the claim */
	char claimed_by[64]; /* for people: "pid 4711 (sh)" */
	int64_t takes;       /* earlier ones of this copy that were never settled: failed attempts (R6) */
	char *error;         /* the failure's reason, at most 4096 bytes; owned */
	void *owner;         /* fs/'s record of the taker; freed with owner_free */
	void (*owner_free)(void *owner);
	struct mqfs_delivery *previous, *next; /* utlist */
};

/* A new delivery with one reference, which takes the message over. NULL when out of memory (then the
 * message stays the caller's). queue is copied. */
struct mqfs_delivery *mqfs_delivery_new(struct mqfs_message *message, const char *queue);
struct mqfs_delivery *mqfs_delivery_ref(struct mqfs_delivery *delivery);
struct mqfs_delivery *mqfs_delivery_unref(struct mqfs_delivery *delivery); /* takes NULL, returns NULL */

bool mqfs_delivery_may(enum mqfs_delivery_state from, enum mqfs_delivery_state to);
const char *mqfs_delivery_state_name(enum mqfs_delivery_state state);

#endif
