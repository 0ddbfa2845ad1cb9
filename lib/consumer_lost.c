/* SPDX-License-Identifier: MIT */
#include "consumer_internal.h"

#include <assert.h>

/*
 * Rule C9. When a connection (or a lease) is over, its delivery tags mean nothing: the broker has
 * everything back and delivers it again, to anyone. What nobody had taken is forgotten. What was
 * taken stays: the handler works on it, and its outcome counts. If the very copy comes back to this
 * mount, the old entry gets the new tag, and an outcome that was decided meanwhile is done. The copy
 * is known by its message-id and its mqfs-copy, which is new in every copy that mqfs publishes; two
 * messages without mqfs-copy are the same only by their message-id. A message without message-id
 * can't be known again; its claim stays listed, but settling it fails with -ESTALE.
 *
 * Each detached entry matches once. Decided, it stays until its outcome is on the disk (consumer_recall.c), and if it
 * can't be brought there, for CONSUMER_RECORD_MS. The settlement that was in flight when the connection went may
 * complete after the redelivery has come; then the redelivery waits as the successor.
 */

bool consumer_recognisable(const struct held *held)
{
	const char *id = held->delivery->message->message_id;

	return id && *id;
}

void consumer_detach(struct held *held)
{
	struct mqfs_consumer *consumer = held->consumer;

	if (held->detached)
		return;
	held->detached = true;
	held->detached_ms = mqfs_clock_monotonic_ms();
	consumer->held_count--;
	consumer->detached_count++;
	consumer_due(consumer, held->detached_ms + CONSUMER_RECORD_MS);
}

static void lose(struct held *held)
{
	enum mqfs_delivery_state state = held->delivery->state;
	bool moot =
	    held->decided && !held->in_flight && (held->how == MQFS_SETTLE_RELEASE || !consumer_recognisable(held));

	if (state == MQFS_DELIVERY_PENDING || state == MQFS_DELIVERY_ARRIVING || moot) {
		consumer_drop(held, MQFS_DELIVERY_LOST);
		return;
	}
	consumer_detach(held);
	if (held->decided && !held->in_flight)
		consumer_record(held);
}

void consumer_lose(struct mqfs_consumer *consumer, uint64_t generation)
{
	struct held *held, *next;

	consumer_told_lost(consumer, generation);
	HASH_ITER(hh, consumer->window, held, next)
	{
		if (held->successor && held->successor->generation <= generation)
			held->successor = mqfs_delivery_unref(held->successor);
		if (!held->detached && held->delivery->generation <= generation)
			lose(held);
	}
}

void consumer_abandon(struct mqfs_consumer *consumer)
{
	struct held *held, *next;

	HASH_ITER(hh, consumer->window, held, next)
	{
		if (held->detached && !held->decided && !held->in_flight)
			consumer_drop(held, MQFS_DELIVERY_LOST);
	}
}

static bool same_copy(const struct held *held, const struct mqfs_delivery *redelivery)
{
	return consumer_recognisable(held) && mqfs_message_same_copy(held->delivery->message, redelivery->message);
}

/* One that is to be released comes back like any other. */
static bool awaits(const struct held *held, const struct mqfs_delivery *redelivery)
{
	bool releasing = (held->decided || held->in_flight) && held->how == MQFS_SETTLE_RELEASE && !held->forwarded;

	return held->detached && !held->successor && !releasing && same_copy(held, redelivery);
}

bool consumer_reattach(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery)
{
	struct held *held, *next;

	if (!delivery->redelivered || consumer->detached_count == 0)
		return false;
	HASH_ITER(hh, consumer->window, held, next)
	{
		if (!awaits(held, delivery))
			continue;
		if (held->in_flight)
			held->successor = delivery;
		else
			consumer_adopt(held, delivery);
		return true;
	}
	return false;
}

void consumer_adopt(struct held *held, struct mqfs_delivery *redelivery)
{
	struct mqfs_consumer *consumer = held->consumer;

	assert(held->detached && !held->in_flight && !held->successor);
	held->delivery->generation = redelivery->generation;
	held->delivery->tag = redelivery->tag;
	held->delivery->channel = redelivery->channel;
	held->delivered_ms = redelivery->delivered_ms;
	mqfs_delivery_unref(redelivery);
	held->detached = false;
	consumer->detached_count--;
	if (++consumer->held_count == consumer->settings.prefetch)
		atomic_fetch_add(&consumer->counters->prefetch_full, 1);
	if (held->decided)
		consumer_try_again(held);
	else
		consumer_due(consumer, held->delivery->expires_ms);
}
