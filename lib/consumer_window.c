/* SPDX-License-Identifier: MIT */
#include "consumer_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/failpoint.h>

static void held_free(struct held *held)
{
	mqfs_delivery_unref(held->successor);
	mqfs_delivery_unref(held->delivery);
	free(held->cause);
	free(held);
}

void consumer_ref(struct mqfs_consumer *consumer)
{
	atomic_fetch_add_explicit(&consumer->references, 1, memory_order_relaxed);
}

void consumer_unref(struct mqfs_consumer *consumer)
{
	struct held *held, *next;

	if (atomic_fetch_sub_explicit(&consumer->references, 1, memory_order_acq_rel) != 1)
		return;
	/* What is left are detached ones: the broker has them. */
	HASH_ITER(hh, consumer->window, held, next)
	{
		assert(!held->in_flight);
		HASH_DELETE(hh, consumer->window, held);
		held_free(held);
	}
	pthread_mutex_destroy(&consumer->lock);
	consumer_told_free(consumer);
	free(consumer->queue);
	free(consumer);
}

void consumer_enter(struct mqfs_consumer *consumer)
{
	pthread_mutex_lock(&consumer->lock);
}

static void answer(struct mqfs_waiter *served)
{
	struct mqfs_waiter *waiter, *next;

	/* done may free its waiter. */
	for (waiter = served; waiter; waiter = next) {
		next = waiter->next;
		waiter->done(waiter, waiter->result, waiter->delivery);
	}
}

/* Its outcome was still on its way to the disk: it is done, or comes again. */
static void answer_kept(const struct held *held)
{
	bool done = held->delivery->state == MQFS_DELIVERY_SETTLED && held->disposition.verb != MQFS_VERB_RELEASE;

	if (held->kept)
		held->kept(held->kept_arg, done ? 0 : -ESTALE, NULL);
}

static void free_all(struct held *gone)
{
	struct held *next;

	for (; gone; gone = next) {
		next = gone->also;
		answer_kept(gone);
		held_free(gone);
	}
}

static void tell_stopped(struct consumer_stop *stopped, int result)
{
	struct consumer_stop *next;

	for (; stopped; stopped = next) {
		next = stopped->next;
		stopped->done(stopped->arg, result, NULL);
		free(stopped);
	}
}

/* Takes the work over; what is done in consumer_leave is always what this hold of the lock has brought. */
static struct consumer_work take_work(struct mqfs_consumer *consumer)
{
	struct consumer_work work = consumer->work;

	if (consumer->closing || (consumer->mode == CONSUMER_OFF && consumer->in_flight_count == 0)) {
		work.stopped = consumer->stops;
		consumer->stops = NULL;
	}
	consumer->work = (struct consumer_work){0};
	return work;
}

void consumer_leave(struct mqfs_consumer *consumer)
{
	int stop_result = consumer->closing ? -ESHUTDOWN : 0;
	struct consumer_work work = take_work(consumer);
	void (*notify)(void *) = work.pending && consumer->pending ? consumer->notify : NULL;
	void (*wake)(void *) = work.wake ? consumer->wake : NULL;
	void *notify_arg = consumer->notify_arg, *wake_arg = consumer->wake_arg;
	bool steer = !consumer->steering && consumer_next_step(consumer) != CONSUMER_STEP_NONE;

	consumer_ref(consumer); /* a callback may free it */
	pthread_mutex_unlock(&consumer->lock);

	consumer_issue(work.settle);
	answer(work.served);
	free_all(work.gone);
	if (steer)
		consumer_steer(consumer);
	if (notify)
		notify(notify_arg);
	if (wake)
		wake(wake_arg);
	tell_stopped(work.stopped, stop_result);
	consumer_unref(consumer);
}

void consumer_due(struct mqfs_consumer *consumer, int64_t due_ms)
{
	if (due_ms >= consumer->next_due_ms)
		return;
	consumer->next_due_ms = due_ms;
	consumer->work.wake = true;
}

void consumer_touched(struct mqfs_consumer *consumer, int64_t now_ms)
{
	consumer->touched_ms = now_ms;
	consumer_due(consumer, now_ms + consumer->settings.idle_release_ms);
}

void consumer_want(struct mqfs_consumer *consumer, int64_t now_ms)
{
	consumer_touched(consumer, now_ms);
	if (consumer->wanted || consumer->closing || consumer->draining)
		return;
	consumer->wanted = true;
	consumer->drained = false;
	consumer->started_ms = now_ms;
}

struct held *consumer_held(struct mqfs_consumer *consumer, const struct mqfs_delivery *delivery)
{
	struct held *held;

	HASH_FIND_STR(consumer->window, delivery->name, held);
	return held && held->delivery == delivery ? held : NULL;
}

/* Microseconds since the epoch, each greater than the last, in the whole process: names stay unique and
 * in order also when the clock steps back. */
static int64_t next_stamp_us(void)
{
	static _Atomic int64_t last_us;
	int64_t now_us = mqfs_clock_realtime_us(), last = atomic_load(&last_us), stamp;

	do
		stamp = now_us > last ? now_us : last + 1;
	while (!atomic_compare_exchange_weak(&last_us, &last, stamp));
	return stamp;
}

static int urgency(const struct held *held)
{
	return held->delivery->message->priority > 0 ? held->delivery->message->priority : 0;
}

static bool is_before(const struct held *a, const struct held *b)
{
	if (urgency(a) != urgency(b))
		return urgency(a) > urgency(b);
	return strcmp(a->delivery->name, b->delivery->name) < 0; /* one that was looked up is late, but older */
}

/* Deliveries come roughly in order of urgency, so the place is near the end. */
static void insert_pending(struct mqfs_consumer *consumer, struct held *held)
{
	struct held *before = consumer->pending ? consumer->pending->previous : NULL; /* the last */

	while (before && is_before(held, before))
		before = before == consumer->pending ? NULL : before->previous;
	DL_APPEND_ELEM2(consumer->pending, before, held, previous, next);
}

int64_t consumer_limit_ms(const struct held *held)
{
	if (held->consumer->patient)
		return MQFS_NEVER;
	return held->delivered_ms + held->consumer->settings.consumer_timeout_ms - CONSUMER_TIMEOUT_GAP_MS;
}

int64_t consumer_pending_end_ms(const struct held *held)
{
	int64_t end_ms = held->delivered_ms + held->consumer->settings.pending_timeout_ms;
	int64_t limit_ms = consumer_limit_ms(held);

	return end_ms < limit_ms ? end_ms : limit_ms;
}

struct held *consumer_hold(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery)
{
	struct held *held = calloc(1, sizeof(*held));

	if (!held)
		return NULL;
	held->consumer = consumer;
	held->delivery = delivery;
	held->delivered_ms = delivery->delivered_ms;
	delivery->state = MQFS_DELIVERY_ARRIVING;
	mqfs_name_message(next_stamp_us(), delivery->message, delivery->name);
	HASH_ADD_KEYPTR(hh, consumer->window, delivery->name, strlen(delivery->name), held);
	if (!held->hh.tbl) {
		free(held);
		return NULL;
	}
	consumer->counts[MQFS_DELIVERY_ARRIVING]++;
	if (++consumer->held_count == consumer->settings.prefetch)
		atomic_fetch_add(&consumer->counters->prefetch_full, 1);
	return held;
}

void consumer_move(struct held *held, enum mqfs_delivery_state to)
{
	struct mqfs_consumer *consumer = held->consumer;
	struct mqfs_delivery *delivery = held->delivery;

	assert(mqfs_delivery_may(delivery->state, to));
	if (delivery->state == MQFS_DELIVERY_PENDING)
		DL_DELETE2(consumer->pending, held, previous, next);
	consumer->counts[delivery->state]--;
	delivery->state = to;
	consumer->counts[to]++;
}

void consumer_show(struct held *held)
{
	struct mqfs_consumer *consumer = held->consumer;

	consumer_move(held, MQFS_DELIVERY_PENDING);
	insert_pending(consumer, held);
	consumer->newest_ms = mqfs_clock_monotonic_ms();
	consumer->work.pending = true;
	consumer_due(consumer, consumer_pending_end_ms(held));
}

void consumer_drop(struct held *held, enum mqfs_delivery_state to)
{
	struct mqfs_consumer *consumer = held->consumer;

	assert(!held->in_flight);
	/* An outcome that is tried again is listed as CLAIMED meanwhile. */
	if (to == MQFS_DELIVERY_SETTLED && held->delivery->state == MQFS_DELIVERY_CLAIMED)
		consumer_move(held, MQFS_DELIVERY_SETTLING);
	consumer_forget(held, to);
	consumer_move(held, to);
	consumer->counts[to]--;
	if (held->detached)
		consumer->detached_count--;
	else
		consumer->held_count--;
	HASH_DELETE(hh, consumer->window, held);
	LL_PREPEND2(consumer->work.gone, held, also);
}

void consumer_begin_claim(struct held *held, int64_t now_ms)
{
	int64_t end_ms = now_ms + held->consumer->settings.claim_timeout_ms, limit_ms = consumer_limit_ms(held);

	held->delivery->claimed_us = mqfs_clock_realtime_us();
	held->delivery->expires_ms = end_ms < limit_ms ? end_ms : limit_ms;
}

void consumer_take(struct held *held, const char *claimed_by)
{
	struct mqfs_delivery *delivery = held->delivery;
	int64_t now_ms = mqfs_clock_monotonic_ms();

	consumer_move(held, MQFS_DELIVERY_CLAIMED);
	consumer_begin_claim(held, now_ms);
	snprintf(delivery->claimed_by, sizeof(delivery->claimed_by), "%s", claimed_by ? claimed_by : "");
	consumer_due(held->consumer, delivery->expires_ms);
	consumer_took(held, now_ms);
	FAILPOINT(consumer_taken);
}

void consumer_set_cause(struct held *held, char *text)
{
	free(held->cause);
	held->cause = NULL;
	held->late = false;
	free(held->delivery->error);
	held->delivery->error = text;
}
