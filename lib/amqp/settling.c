/* SPDX-License-Identifier: MIT */
#include "settling.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>
#include <mqfs/failure.h>
#include <mqfs/name.h>
#include <mqfs/retry.h>
#define LOG_TOPIC "amqp.settling"
#include <mqfs/log.h>

#include "publisher.h"
#include "topology.h"

/*
 * Ack and nack are sent, and that is all: the broker does not answer them. A move takes three steps on two
 * connections, each on its owner's thread: is the original still held; publish the copy and wait for its
 * confirm; ack the original. Should the original's channel go in between, there are two, with one message-id.
 *
 * Giving back by nack counts as a delivery where the broker counts (quorum queues), and may cost the message in the
 * end. There a copy is published instead, which has a count of its own; also to a Q.dead that somebody else made. (The
 * delay levels have no limit.)
 */

/* A send that is stuck for so long ends the connection. */
#define SEND_MS 2000
/* So large a part of what is held is acknowledged without waiting for more: the broker may have nothing to send. */
#define GATHER_PART 4

struct settlement {
	struct job job;
	struct settling *settling;
	char *queue; /* of the copy; for a release the delivery's own */
	enum mqfs_verb verb;
	enum mqfs_place place;
	int64_t level_ms;
	struct mqfs_message *copy; /* to be published, or NULL */
	bool copied;               /* a move's copy is confirmed: the rest is the original's ack */
	bool counted;              /* this very delivery came with a count */
	int64_t takes;             /* of the delivery, when it was settled */
	enum mqfs_place from;
	/* Which delivery. Copied, since the consumer may replace them when a lost claim comes back. */
	uint64_t generation;
	uint64_t tag;
	amqp_channel_t channel;
	struct mqfs_delivery *delivery; /* a reference */
	mqfs_done_fn *done;
	void *arg;
	struct settlement *prev, *next; /* holder->acked */
};

static void settlement_end(struct settlement *settlement, int result, const char *reason);

/* ---- holders ---- */

int holder_open(struct settling *settling, struct holder *holder, amqp_channel_t channel, uint64_t generation)
{
	assert(!holder->channel && !holder->held);
	holder->channel = channel;
	HASH_ADD(hh, settling->holders, channel, sizeof(holder->channel), holder);
	if (!holder->hh.tbl) {
		holder->channel = 0;
		return -ENOMEM;
	}
	holder->generation = generation;
	return 0;
}

void holder_close(struct settling *settling, struct holder *holder)
{
	struct settlement *settlement, *next;
	struct held *held, *tmp;

	if (!holder->channel)
		return;
	HASH_DEL(settling->holders, holder);
	holder->channel = 0;
	DL_FOREACH_SAFE(holder->acked, settlement, next)
	{
		DL_DELETE(holder->acked, settlement);
		settlement_end(settlement, -ESTALE, NULL);
	}
	holder->acks = 0;
	HASH_ITER(hh, holder->held, held, tmp)
	{
		HASH_DEL(holder->held, held);
		free(held);
	}
}

struct holder *holder_find(struct settling *settling, amqp_channel_t channel)
{
	struct holder *holder;

	HASH_FIND(hh, settling->holders, &channel, sizeof(channel), holder);
	return holder;
}

int holder_hold(struct holder *holder, uint64_t tag, void *owner)
{
	struct held *held = malloc(sizeof(*held));

	if (!held)
		return -ENOMEM;
	*held = (struct held){.tag = tag, .owner = owner};
	HASH_ADD(hh, holder->held, tag, sizeof(held->tag), held);
	if (!held->hh.tbl) {
		free(held);
		return -ENOMEM;
	}
	return 0;
}

struct mqfs_delivery *holder_delivery(const struct holder *holder, struct frame_content *content, const char *queue,
                                      enum mqfs_place place)
{
	struct mqfs_delivery *delivery = mqfs_delivery_new(content->message, queue);

	if (!delivery)
		return NULL;
	delivery->exchange = content->exchange;
	delivery->routing_key = content->routing_key;
	content->message = NULL;
	content->exchange = content->routing_key = NULL;
	delivery->place = place;
	delivery->redelivered = content->redelivered;
	delivery->delivery_count = mqfs_headers_integer(&delivery->message->headers, "x-delivery-count", -1);
	delivery->delivered_ms = mqfs_clock_monotonic_ms();
	if (place == MQFS_PLACE_RETRY)
		delivery->next_at_us = mqfs_headers_integer(&delivery->message->headers, "mqfs-next-at", 0);
	delivery->generation = holder->generation;
	delivery->channel = content->channel;
	delivery->tag = content->tag;
	return delivery;
}

static void release(struct settling *settling, struct holder *holder, struct held *held)
{
	void *owner = held->owner;

	HASH_DEL(holder->held, held);
	free(held);
	settling->released(holder, owner);
}

void holder_decline(struct settling *settling, amqp_channel_t channel, uint64_t tag)
{
	struct connection *connection = settling->connection;

	connection_arm_call(connection);
	connection_sent(connection, amqp_basic_nack(connection->state, channel, tag, 0, 1));
}

/* ---- settlements ---- */

static struct settlement *settlement_free(struct settlement *settlement)
{
	mqfs_delivery_unref(settlement->delivery);
	mqfs_message_free(settlement->copy);
	free(settlement->queue);
	free(settlement);
	return NULL;
}

static void settlement_end(struct settlement *settlement, int result, const char *reason)
{
	if (result == -ESTALE && settlement->copied)
		result = MQFS_MOVED_STALE;
	if (result == -ESTALE && !reason)
		reason = "the connection that delivered it is gone; it is delivered again";
	settlement->done(settlement->arg, result, reason);
	settlement_free(settlement);
}

static void settlement_fail(struct job *job, int result, const char *reason)
{
	settlement_end((struct settlement *)job, result, reason);
}

static struct held *find_held(const struct settlement *settlement, struct holder **ret_holder)
{
	struct holder *holder = holder_find(settlement->settling, settlement->channel);
	struct held *held;

	if (!holder || holder->generation != settlement->generation)
		return NULL;
	HASH_FIND(hh, holder->held, &settlement->tag, sizeof(settlement->tag), held);
	*ret_holder = holder;
	return held;
}

/* The broker was told, or could not be. */
static void acked(struct holder *holder, struct held *held, bool sent)
{
	struct settlement *settlement = held->acked;

	DL_DELETE(holder->acked, settlement);
	holder->acks--;
	held->acked = NULL;
	if (sent)
		release(settlement->settling, holder, held);
	settlement_end(settlement, sent ? 0 : -ESTALE, NULL);
}

static bool send_ack(struct settling *settling, const struct holder *holder, uint64_t tag, bool multiple)
{
	struct connection *connection = settling->connection;

	connection_arm(connection, mqfs_clock_monotonic_ms() + SEND_MS);
	FAILPOINT(amqp_settle_sending);
	if (connection_sent(connection, amqp_basic_ack(connection->state, holder->channel, tag, multiple)) < 0)
		return false;
	FAILPOINT(amqp_settle_sent);
	return true;
}

/* The newest of the oldest that are all to be acknowledged: one frame says so of all of them. */
static struct held *end_of_prefix(const struct holder *holder)
{
	struct held *end = NULL;

	for (struct held *held = holder->held; held && held->acked; held = held->hh.next)
		end = held;
	return end;
}

static struct held *held_of(const struct holder *holder, const struct settlement *settlement)
{
	struct held *held;

	HASH_FIND(hh, holder->held, &settlement->tag, sizeof(settlement->tag), held);
	assert(held && held->acked == settlement);
	return held;
}

static void holder_flush(struct settling *settling, struct holder *holder)
{
	struct held *end = end_of_prefix(holder), *held;

	if (end && end != holder->held) {
		uint64_t tag = end->tag;
		bool sent = send_ack(settling, holder, tag, true);

		while ((held = holder->held) && held->tag <= tag && sent)
			acked(holder, held, true);
	}
	while (holder->acked && !settling->connection->failed) {
		held = held_of(holder, holder->acked);
		acked(holder, held, send_ack(settling, holder, held->tag, false));
	}
}

int64_t settling_flush(struct settling *settling, int64_t now_ms)
{
	struct holder *holder, *tmp;

	if (settling->flush_ms > now_ms)
		return settling->flush_ms;
	settling->flush_ms = MQFS_NEVER;
	HASH_ITER(hh, settling->holders, holder, tmp)
	{
		holder_flush(settling, holder);
	}
	return settling->flush_ms;
}

static void gather_ack(struct settlement *settlement, struct holder *holder, struct held *held)
{
	struct settling *settling = settlement->settling;
	int64_t soon_ms = mqfs_clock_monotonic_ms() + settling->gather_ms;

	held->acked = settlement;
	DL_APPEND(holder->acked, settlement);
	if (++holder->acks * GATHER_PART >= HASH_COUNT(holder->held) || settling->gather_ms == 0)
		holder_flush(settling, holder);
	else if (soon_ms < settling->flush_ms)
		settling->flush_ms = soon_ms;
}

/* The last step: ack or nack. */
static void settle_original(struct settlement *settlement, bool positive)
{
	struct settling *settling = settlement->settling;
	struct connection *connection = settling->connection;
	struct holder *holder;
	struct held *held = find_held(settlement, &holder);

	if (!held || held->acked) {
		settlement_end(settlement, -ESTALE, NULL);
		return;
	}
	if (positive) {
		gather_ack(settlement, holder, held);
		return;
	}
	connection_arm(connection, mqfs_clock_monotonic_ms() + SEND_MS);
	if (connection_sent(connection,
	                    amqp_basic_nack(connection->state, settlement->channel, settlement->tag, 0, 1)) < 0) {
		settlement_end(settlement, -ESTALE, NULL);
		return;
	}
	release(settling, holder, held);
	settlement_end(settlement, 0, NULL);
}

static void ack_original(struct job *job, void *role)
{
	(void)role;
	settle_original((struct settlement *)job, true);
}

static void nack_original(struct job *job, void *role)
{
	(void)role;
	settle_original((struct settlement *)job, false);
}

/* The broker has the copy, or not. On the publisher's thread, or another. */
static void copy_published(void *arg, int result, const char *reason)
{
	struct settlement *settlement = arg;

	/* What was looked at must not stay away for that. */
	if (result < 0 && (settlement->verb != MQFS_VERB_RELEASE || settlement->from != MQFS_PLACE_DEAD)) {
		settlement_end(settlement, result, reason);
		return;
	}
	FAILPOINT(amqp_copy_confirmed);
	settlement->copied = settlement->verb == MQFS_VERB_MOVE;
	settlement->job.run = result < 0 ? nack_original : ack_original;
	/* Never late, since whoever tried again would publish another copy; without a connection it is stale. */
	settlement->job.deadline_ms = MQFS_NEVER;
	settlement->job.anytime = true;
	connection_submit(settlement->settling->connection, &settlement->job);
}

static void publish_copy(struct settlement *settlement)
{
	struct mqfs_message *copy = settlement->copy;

	settlement->copy = NULL;
	if (publisher_submit(settlement->settling->publisher, settlement->queue, settlement->place,
	                     settlement->level_ms, copy, settlement->job.deadline_ms, copy_published, settlement) < 0)
		settlement_end(settlement, -ENOMEM, "out of memory");
}

static bool counts(const struct settlement *settlement)
{
	mqfs_name_t dead;

	if (settlement->counted || settlement->from != MQFS_PLACE_DEAD)
		return settlement->counted || topology_counts(settlement->settling->topology, settlement->queue);
	mqfs_name_dead_queue(settlement->queue, dead);
	return topology_counts(settlement->settling->topology, dead);
}

/* Back to where it was. NULL: out of memory. */
static struct mqfs_message *copy_to_give_back(struct settlement *settlement)
{
	settlement->place = settlement->from;
	if (settlement->from == MQFS_PLACE_DEAD)
		return mqfs_copy_for_dead_again(settlement->delivery->message);
	return mqfs_copy_for_release(settlement->delivery->message, settlement->takes);
}

static void settlement_run(struct job *job, void *role)
{
	struct settlement *settlement = (struct settlement *)job;
	struct holder *holder;

	(void)role;
	if (!find_held(settlement, &holder)) {
		settlement_end(settlement, -ESTALE, NULL);
		return;
	}
	if (settlement->verb == MQFS_VERB_RELEASE && settlement->from != MQFS_PLACE_RETRY && counts(settlement)) {
		settlement->copy = copy_to_give_back(settlement);
		if (!settlement->copy) {
			settlement_end(settlement, -ENOMEM, "out of memory");
			return;
		}
	}
	if (settlement->copy)
		publish_copy(settlement);
	else
		settle_original(settlement, settlement->verb != MQFS_VERB_RELEASE);
}

int settling_submit(struct settling *settling, struct mqfs_delivery *delivery,
                    const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	bool move = disposition->verb == MQFS_VERB_MOVE;
	struct settlement *settlement = malloc(sizeof(*settlement));
	char *queue = strdup(move && disposition->queue ? disposition->queue : delivery->queue);

	if (!settlement || !queue) {
		free(settlement);
		free(queue);
		if (move)
			mqfs_message_free(disposition->copy);
		return -ENOMEM;
	}
	*settlement = (struct settlement){
	    .job = {.run = settlement_run,
	            .fail = settlement_fail,
	            .deadline_ms = deadline_ms,
	            .late_result = -EHOSTDOWN,
	            .away_result = -ESTALE},
	    .settling = settling,
	    .queue = queue,
	    .verb = disposition->verb,
	    .place = move ? disposition->place : MQFS_PLACE_READY,
	    .level_ms = move ? mqfs_retry_level(disposition->delay_ms, false) : 0,
	    .copy = move ? disposition->copy : NULL,
	    .counted = delivery->delivery_count >= 0,
	    .takes = delivery->takes,
	    .from = delivery->place,
	    .generation = delivery->generation,
	    .tag = delivery->tag,
	    .channel = (amqp_channel_t)delivery->channel,
	    .delivery = mqfs_delivery_ref(delivery),
	    .done = done,
	    .arg = arg,
	};
	connection_submit(settling->connection, &settlement->job);
	return 0;
}
