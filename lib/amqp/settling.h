/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_SETTLING_H
#define MQFS_AMQP_SETTLING_H

#include <stdint.h>
#include "hash.h"

#include <mqfs/backend.h>

#include "connection.h"

/*
 * Settling what is held in a channel: of the consume connection, or of the look connection.
 *
 * A delivery is settled only in the very channel that brought it: each opening of a channel has a
 * generation of its own, and the tags that are held are known. Whatever else is asked for is -ESTALE: the
 * broker has taken it back, and delivers it again.
 */
struct publisher;
struct topology;

struct held {
	uint64_t tag;
	void *owner;              /* whatever the holder wants to be told when it is no longer held */
	struct settlement *acked; /* its acknowledgement is gathered, and not sent yet */
	UT_hash_handle hh;
};

/* A channel with held deliveries. All is the owner thread's. */
struct holder {
	amqp_channel_t channel; /* 0: not open */
	uint64_t generation;
	struct held *held;        /* uthash by tag, iterated in order of it */
	struct settlement *acked; /* utlist: gathered acknowledgements */
	unsigned acks;            /* how many */
	UT_hash_handle hh;        /* by channel */
};

struct settling {
	struct connection *connection;
	struct publisher *publisher;
	struct topology *topology;
	struct holder *holders; /* uthash by channel; the owner thread's */
	/*
	 * Acknowledgements wait gather_ms for others, unless they are a good part of what is held: the broker then
	 * reads one frame instead of many. 0: none waits. flush_ms is the owner thread's; MQFS_NEVER: none is waiting.
	 */
	int64_t gather_ms;
	int64_t flush_ms;
	/* One was settled: no longer held. On the owner thread. */
	void (*released)(struct holder *holder, void *owner);
};

/* ---- the owner thread ---- */

/* 0, -ENOMEM. */
int holder_open(struct settling *settling, struct holder *holder, amqp_channel_t channel, uint64_t generation);
/* All that is held is stale from now on. */
void holder_close(struct settling *settling, struct holder *holder);
struct holder *holder_find(struct settling *settling, amqp_channel_t channel);
int holder_hold(struct holder *holder, uint64_t tag, void *owner); /* 0, -ENOMEM */
/* The message as a delivery of that holder's; what it needs of content passes on. NULL when out of memory. */
struct mqfs_delivery *holder_delivery(const struct holder *holder, struct frame_content *content, const char *queue,
                                      enum mqfs_place place);
/* Sends what was gathered: all, or only when it is time. When it will be is returned. */
int64_t settling_flush(struct settling *settling, int64_t now_ms);
/* Puts back at once what is not handed up. */
void holder_decline(struct settling *settling, amqp_channel_t channel, uint64_t tag);

/* ---- any thread ---- */

/* As mqfs_backend_ops.settle; 0, or -ENOMEM: done does not run then. disposition->copy is taken over either way. */
int settling_submit(struct settling *settling, struct mqfs_delivery *delivery,
                    const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done, void *arg);

#endif
