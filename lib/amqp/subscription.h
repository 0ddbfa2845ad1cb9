/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_SUBSCRIPTION_H
#define MQFS_AMQP_SUBSCRIPTION_H

#include "consuming.h"

/*
 * A subscription is a queue that is consumed, or was and still has held deliveries.
 *
 *            topology says: the        channel open,
 *   IDLE --> queue and its places --> consumers in it
 *    ^          (PREPARING)              (RUNNING)
 *    |______________|_______________________|     connection or channel lost: again, after a moment
 *
 * The prefetch of a consumer is fixed when it begins. When it is to be raised, a second consumer with the
 * difference joins in the same channel; when it is lowered, consumers are cancelled, and a smaller one
 * takes their place as what they still hold is settled. So the sum of the prefetches of the running ones and of what
 * the cancelled ones hold never grows past what was asked for. (RabbitMQ has a limit for the whole channel that
 * could be changed, but not with quorum queues, and it is deprecated.)
 *
 * All is the owner thread's. What needs calls but not at once is noted down (dirty) for consuming_work.
 */

enum subscription_state { SUBSCRIPTION_IDLE, SUBSCRIPTION_PREPARING, SUBSCRIPTION_RUNNING };

/* A consumer in the subscription's channel. */
struct stream {
	struct stream *prev, *next;
	char tag[FRAME_CONSUMER_TAG_BYTES];
	int prefetch;
	int held;
	bool cancelled;
};

struct subscription {
	struct holder holder; /* first: a holder is a subscription's */
	struct consuming *consuming;
	char *queue;
	uint64_t serial; /* tells it from an earlier one of the same queue */
	bool wanted;
	int prefetch;
	const struct mqfs_sink *sink; /* called only while wanted */
	void *arg;
	enum subscription_state state;
	int64_t start_ms; /* IDLE: when to begin */
	struct stream *streams;
	int64_t left; /* ready messages that were counted and have not come yet */
	bool counts;  /* topology has been told */
	UT_hash_handle by_queue;
};

struct consuming {
	struct connection *connection;
	struct topology *topology;
	struct settling settling;
	_Atomic uint64_t *generations;
	struct subscription *subscriptions; /* uthash by queue */
	uint64_t serials;
	uint64_t unheard; /* the newest generation in which something was lost that no sink was told of */
	unsigned tags;
	bool connected;
	bool dirty; /* some subscription needs consuming_work */
	int64_t due_ms;
};

struct subscription *subscription_find(struct consuming *consuming, const char *queue);
struct subscription *subscription_of(struct consuming *consuming, amqp_channel_t channel);
struct subscription *subscription_new(struct consuming *consuming, const char *queue); /* NULL: out of memory */
void subscription_free(struct subscription *subscription);
/* With its channel, if that is open. */
void subscription_close(struct subscription *subscription);
/* Its channel is no more: what it holds is the broker's again. */
void subscription_reset(struct subscription *subscription);
void subscription_tell_lost(struct subscription *subscription);

/* It can't be consumed. It is gone after this, and whoever wanted it knows. */
void subscription_end(struct subscription *subscription, int result, const char *reason);
/* The broker refused something, and its channel is gone: for good, or to be tried again after a moment. */
void subscription_refused(struct subscription *subscription, int result, const char *reason);
/* The outcome of a call: as refused; nothing for -ECONNRESET, as the connection that is given up tells all. */
void subscription_failed(struct subscription *subscription, int result);

/* IDLE to PREPARING; the rest follows by itself. */
void subscription_prepare(struct subscription *subscription, int64_t now_ms);
/* Brings the consumers nearer to what is wanted. 0, or for subscription_failed. */
int subscription_adjust(struct subscription *subscription);

struct stream *stream_find(struct subscription *subscription, const char *tag);
void stream_drop_if_done(struct subscription *subscription, struct stream *stream);

#endif
