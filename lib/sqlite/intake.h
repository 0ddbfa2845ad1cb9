/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_INTAKE_H
#define MQFS_SQLITE_INTAKE_H

#include "internal.h"
#include "request.h"

/*
 * Consuming one queue by this mount: its sink, and how many deliveries are out. It stays after a
 * cancel, as long as the store, since what is held may still be settled. Only the writer uses it; the
 * sink is called by intake_notify alone, outside of transactions.
 */
struct intake {
	char *queue;
	int64_t queue_id; /* 0: not found yet */
	bool active;
	int prefetch;
	const struct mqfs_sink *sink;
	void *arg;

	int64_t held;     /* unsettled, as committed */
	int64_t settling; /* of these, settled in the present transaction */
	/* Of the present transaction (utlist): to be handed out, and with a damaged head. */
	struct mqfs_delivery *taken, *spoiled;
	int64_t taken_count;
	uint64_t newest; /* the highest generation handed out */

	/* What the sink has to be told. */
	bool prepared;
	bool drained; /* it has been told so since its last delivery */
	bool lost;    /* perhaps before it consumed again: what is held outlives a cancel */
	int ended;

	UT_hash_handle hh;
};

/* The memory's side of consume and cancel; the lease tells the others. */
int intake_consume(struct store *store, const struct request *request);
void intake_cancel(struct store *store, const struct request *request);

/* Does any consume, or hold something? */
bool intake_wanted(const struct store *store);
/* Has any consumer room, and is there nothing to fill it with? */
bool intake_hungry(const struct store *store);

/* Would feeding find something? May read the file. 1, 0 or a negative errno. */
int intake_can_feed(struct store *store);
/* Takes what is ready, within a writing transaction, whose end it is told. 1: there may be more. */
int intake_feed(struct store *store);
void intake_settled(struct store *store, const char *queue);
void intake_committed(struct store *store);
void intake_rolled_back(struct store *store);

/* The lease was over: nothing is held. */
void intake_lost(struct store *store);

/* Tells the sinks. */
void intake_notify(struct store *store);
void intake_free(struct store *store);

#endif
