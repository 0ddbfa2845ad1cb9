/* SPDX-License-Identifier: MIT */
#include "consumer_internal.h"

#include <string.h>

/*
 * What the clock brings: claims end (C8), what lies untaken goes back, outcomes are tried again,
 * records age, consuming stops when nobody looks (C1).
 */

static int64_t due_of(const struct held *held)
{
	const struct mqfs_delivery *delivery = held->delivery;
	int64_t due_ms = held->detached ? held->detached_ms + CONSUMER_RECORD_MS : MQFS_NEVER;

	if (held->in_flight || held->recording > 0)
		return MQFS_NEVER;
	if (delivery->state == MQFS_DELIVERY_ARRIVING)
		return held->delivered_ms + CONSUMER_RECALL_MS;
	if (delivery->state == MQFS_DELIVERY_PENDING)
		return consumer_pending_end_ms(held);
	if (delivery->state == MQFS_DELIVERY_CLAIMED && !held->decided)
		return mqfs_clock_earlier(due_ms, delivery->expires_ms);
	if (delivery->state == MQFS_DELIVERY_CLAIMED && !held->detached)
		return held->again_ms;
	return due_ms;
}

/* When its take is to be recorded. */
static int64_t note_of(const struct held *held)
{
	bool due = held->delivery->state == MQFS_DELIVERY_CLAIMED && held->note_ms > 0 && !held->take_noted;

	return due ? held->note_ms : MQFS_NEVER;
}

/* C8: a claim that runs out is a failed attempt, unless there is no place for failed ones (R1). */
static void expire(struct held *held)
{
	struct mqfs_consumer *consumer = held->consumer;

	if (held->detached && !consumer_recognisable(held)) {
		consumer_drop(held, MQFS_DELIVERY_LOST);
		return;
	}
	consumer_set_cause(held, strdup("claim expired"));
	if (consumer->prepared < 0)
		consumer_count_take(held);
	if (consumer_decide(held, consumer->prepared < 0 ? MQFS_SETTLE_RELEASE : MQFS_SETTLE_RETRY) < 0)
		held->delivery->expires_ms = mqfs_clock_monotonic_ms() + CONSUMER_AGAIN_MS; /* out of memory */
	else
		atomic_fetch_add(&consumer->counters->expired_claims, 1);
}

static void attend(struct held *held, int64_t now_ms)
{
	if (held->detached && now_ms >= held->detached_ms + CONSUMER_RECORD_MS)
		consumer_drop(held, MQFS_DELIVERY_LOST);
	else if (held->delivery->state == MQFS_DELIVERY_ARRIVING)
		consumer_show(held); /* the disk does not answer; nobody waits for it */
	else if (held->delivery->state == MQFS_DELIVERY_PENDING)
		/* Nobody here takes it, so it is for others: released alone it would come back at once. All that is
		 * pending goes back, and the next look at pending/ consumes again. */
		held->consumer->wanted = false;
	else if (held->decided)
		consumer_try_again(held);
	else
		expire(held);
}

static int64_t attend_window(struct mqfs_consumer *consumer, int64_t now_ms)
{
	int64_t due_ms = MQFS_NEVER;
	struct held *held, *next;

	HASH_ITER(hh, consumer->window, held, next)
	{
		if (note_of(held) <= now_ms)
			consumer_note_take(held);
		if (due_of(held) <= now_ms)
			attend(held, now_ms);
		else
			due_ms = mqfs_clock_earlier(due_ms, mqfs_clock_earlier(due_of(held), note_of(held)));
	}
	return due_ms;
}

static int64_t attend_idle(struct mqfs_consumer *consumer, int64_t now_ms)
{
	int64_t idle_ms = consumer->settings.idle_release_ms;

	if (!consumer->wanted)
		return MQFS_NEVER;
	if (consumer->counts[MQFS_DELIVERY_CLAIMED] > 0 || consumer->claims)
		return now_ms + idle_ms;
	if (now_ms < consumer->touched_ms + idle_ms)
		return consumer->touched_ms + idle_ms;
	consumer->wanted = false;
	return MQFS_NEVER;
}

int64_t mqfs_consumer_tick(struct mqfs_consumer *consumer, int64_t now_ms)
{
	int64_t due_ms;

	consumer_enter(consumer);
	consumer->next_due_ms = MQFS_NEVER; /* what follows puts there what it finds */
	due_ms = attend_window(consumer, now_ms);
	due_ms = mqfs_clock_earlier(due_ms, attend_idle(consumer, now_ms));
	due_ms = mqfs_clock_earlier(due_ms, consumer_serve(consumer, now_ms));
	due_ms = mqfs_clock_earlier(due_ms, consumer->next_due_ms);
	consumer->next_due_ms = due_ms;
	consumer->work.wake = false; /* the caller takes the answer */
	consumer_leave(consumer);
	return due_ms;
}
