/* SPDX-License-Identifier: MIT */
#include "consumer_internal.h"

#include <errno.h>
#include <stdio.h>

/*
 * Waiters. While a claim waits nothing is pending: what is delivered goes to the one that has waited longest. A waiter
 * is answered by taking it off its list, under the lock, and calling it when the lock is let go; so it is answered
 * once, and a cancel knows which came first.
 */

static void serve(struct mqfs_consumer *consumer, struct mqfs_waiter **list, struct mqfs_waiter *waiter, int result,
                  struct mqfs_delivery *delivery)
{
	DL_DELETE2(*list, waiter, previous, next);
	waiter->kind = WAITER_NONE;
	waiter->result = result;
	waiter->delivery = delivery;
	DL_APPEND2(consumer->work.served, waiter, previous, next);
}

static void await(struct mqfs_consumer *consumer, struct mqfs_waiter **list, struct mqfs_waiter *waiter,
                  enum waiter_kind kind, int64_t due_ms)
{
	waiter->kind = kind;
	DL_APPEND2(*list, waiter, previous, next);
	consumer_due(consumer, due_ms);
}

bool consumer_is_stocked(const struct mqfs_consumer *consumer, int64_t now_ms)
{
	return (consumer->drained && consumer->counts[MQFS_DELIVERY_ARRIVING] == 0) || !consumer->wanted ||
	       consumer->held_count >= consumer->settings.prefetch ||
	       now_ms >= consumer->started_ms + CONSUMER_STOCKED_MS ||
	       (consumer->pending && now_ms >= consumer->newest_ms + CONSUMER_GATHER_MS);
}

/* When the first look is answered at the latest, as things are. */
static int64_t stocked_ms(const struct mqfs_consumer *consumer)
{
	int64_t all_ms = consumer->started_ms + CONSUMER_STOCKED_MS,
	        gathered_ms = consumer->newest_ms + CONSUMER_GATHER_MS;

	return consumer->pending && gathered_ms < all_ms ? gathered_ms : all_ms;
}

int64_t consumer_serve(struct mqfs_consumer *consumer, int64_t now_ms)
{
	struct mqfs_waiter *waiter, *next;

	/* Who looks may see what a claim takes away next, as with any directory. */
	if (consumer_is_stocked(consumer, now_ms)) {
		DL_FOREACH_SAFE2(consumer->stocked, waiter, next, next)
		{
			serve(consumer, &consumer->stocked, waiter, 0, NULL);
		}
	}
	while (consumer->pending && consumer->claims) {
		struct held *held = consumer->pending;

		waiter = consumer->claims;
		consumer_take(held, waiter->claimed_by);
		serve(consumer, &consumer->claims, waiter, 1, mqfs_delivery_ref(held->delivery));
	}
	if (!consumer->stocked)
		return MQFS_NEVER;
	consumer_due(consumer, stocked_ms(consumer));
	return stocked_ms(consumer);
}

void consumer_fail_waiters(struct mqfs_consumer *consumer, int result)
{
	struct mqfs_waiter *waiter, *next;

	DL_FOREACH_SAFE2(consumer->claims, waiter, next, next)
	{
		serve(consumer, &consumer->claims, waiter, result, NULL);
	}
	DL_FOREACH_SAFE2(consumer->stocked, waiter, next, next)
	{
		serve(consumer, &consumer->stocked, waiter, 0, NULL);
	}
}

int mqfs_consumer_wait_stocked(struct mqfs_consumer *consumer, struct mqfs_waiter *waiter)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();
	int result;

	consumer_enter(consumer);
	consumer_want(consumer, now_ms);
	result = consumer_is_stocked(consumer, now_ms);
	if (!result)
		await(consumer, &consumer->stocked, waiter, WAITER_STOCKED, stocked_ms(consumer));
	consumer_leave(consumer);
	return result;
}

int mqfs_consumer_claim(struct mqfs_consumer *consumer, const char *claimed_by, bool wait, struct mqfs_waiter *waiter,
                        struct mqfs_delivery **ret_delivery)
{
	int result = 0;

	consumer_enter(consumer);
	consumer_want(consumer, mqfs_clock_monotonic_ms());
	if (consumer->closing || consumer->draining) {
		result = -ESHUTDOWN;
	} else if (consumer->pending) {
		*ret_delivery = mqfs_delivery_ref(consumer->pending->delivery);
		consumer_take(consumer->pending, claimed_by);
		result = 1;
	} else if (!wait) {
		result = -EAGAIN;
	} else {
		snprintf(waiter->claimed_by, sizeof(waiter->claimed_by), "%s", claimed_by ? claimed_by : "");
		await(consumer, &consumer->claims, waiter, WAITER_CLAIM, MQFS_NEVER);
	}
	consumer_leave(consumer);
	return result;
}

bool mqfs_consumer_cancel_wait(struct mqfs_consumer *consumer, struct mqfs_waiter *waiter)
{
	bool waiting;

	consumer_enter(consumer);
	waiting = waiter->kind != WAITER_NONE;
	if (waiter->kind == WAITER_CLAIM)
		DL_DELETE2(consumer->claims, waiter, previous, next);
	else if (waiter->kind == WAITER_STOCKED)
		DL_DELETE2(consumer->stocked, waiter, previous, next);
	waiter->kind = WAITER_NONE;
	consumer_touched(consumer, mqfs_clock_monotonic_ms());
	consumer_leave(consumer);
	return waiting;
}
