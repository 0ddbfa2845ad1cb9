/* SPDX-License-Identifier: MIT */
#include "consumer_internal.h"

#include <errno.h>

#include <mqfs/failpoint.h>

#define LOG_TOPIC "consumer"
#include <mqfs/log.h>

/*
 * Consuming starts and stops, and what the backend tells meanwhile. Whoever changes what is wanted
 * leaves it to consumer_steer(), which one thread at a time runs, so that consume and cancel never
 * cross on their way to the backend.
 */

static void discarded(void *arg, int result, const char *reason)
{
	(void)arg;
	(void)result;
	(void)reason;
}

/* There is no memory to list it: it goes back. */
static void decline(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery)
{
	struct mqfs_disposition release = {.verb = MQFS_VERB_RELEASE};

	log_error("%s: no memory for a delivery", consumer->queue);
	mqfs_settle(consumer->backend, delivery, &release, mqfs_clock_monotonic_ms() + CONSUMER_AGAIN_MS, discarded,
	            NULL);
	mqfs_delivery_unref(delivery);
}

/* false: there is no memory. */
static bool receive(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery)
{
	struct held *held;

	if (consumer_reattach(consumer, delivery))
		return true;
	held = consumer_hold(consumer, delivery);
	if (held && !consumer_recall(held))
		consumer_show(held);
	return held;
}

static void sink_delivered(void *arg, struct mqfs_delivery *delivery)
{
	struct mqfs_consumer *consumer = arg;
	bool declined;

	consumer_enter(consumer);
	atomic_fetch_add(&consumer->counters->delivered, 1);
	if (delivery->redelivered)
		atomic_fetch_add(&consumer->counters->redelivered, 1);
	declined = !receive(consumer, delivery);
	consumer_serve(consumer, mqfs_clock_monotonic_ms());
	consumer_leave(consumer);
	FAILPOINT(consumer_listed);
	if (declined)
		decline(consumer, delivery);
}

static void sink_lost(void *arg, uint64_t generation)
{
	struct mqfs_consumer *consumer = arg;

	consumer_enter(consumer);
	consumer_lose(consumer, generation);
	consumer_leave(consumer);
}

static void sink_drained(void *arg)
{
	struct mqfs_consumer *consumer = arg;

	consumer_enter(consumer);
	consumer->drained = true;
	consumer_serve(consumer, mqfs_clock_monotonic_ms());
	consumer_leave(consumer);
}

static void sink_prepared(void *arg, int result, const char *reason)
{
	struct mqfs_consumer *consumer = arg;

	consumer_enter(consumer);
	consumer->prepared = result < 0 ? result : 0;
	consumer_leave(consumer);
	if (result < 0)
		log_warning("%s: retry/ and dead/ can't be used: %s", consumer->queue, reason ? reason : "refused");
}

static void sink_ended(void *arg, int result, const char *reason)
{
	struct mqfs_consumer *consumer = arg;

	log_warning("%s: consuming ended: %s", consumer->queue, reason ? reason : "by the broker");
	consumer_enter(consumer);
	consumer_lose(consumer, UINT64_MAX);
	/* The cancel that follows tells when no sink function runs any more, also when the next look, which the
	 * failed waiters may bring at once, wants to consume again. */
	consumer->wanted = false;
	consumer->ended = true;
	consumer_fail_waiters(consumer, result < 0 ? result : -EIO);
	consumer_leave(consumer);
}

static const struct mqfs_sink sink = {
    .delivered = sink_delivered,
    .lost = sink_lost,
    .drained = sink_drained,
    .prepared = sink_prepared,
    .ended = sink_ended,
};

static void cancelled(void *arg, int result, const char *reason)
{
	struct mqfs_consumer *consumer = arg;

	(void)result;
	(void)reason;
	consumer_enter(consumer);
	consumer->mode = CONSUMER_OFF;
	/* Also when consuming is wanted again: prefetch counts anew, so what is pending would be over it. */
	consumer_give_back(consumer);
	consumer_leave(consumer);
	consumer_unref(consumer);
}

enum consumer_step consumer_next_step(const struct mqfs_consumer *consumer)
{
	bool wanted = consumer->wanted && !consumer->closing && !consumer->stops;

	if (consumer->mode == CONSUMER_ON && (!wanted || consumer->ended))
		return CONSUMER_STEP_CANCEL;
	if (consumer->mode == CONSUMER_OFF && wanted)
		return CONSUMER_STEP_CONSUME;
	if (consumer->mode == CONSUMER_ON && consumer->prefetch_told != consumer->settings.prefetch)
		return CONSUMER_STEP_CONSUME;
	return CONSUMER_STEP_NONE;
}

/* Changes the mode; the call follows without the lock. From the first consume until the cancel has
 * completed the backend owns a reference. */
static void enter_step(struct mqfs_consumer *consumer, enum consumer_step step)
{
	if (step == CONSUMER_STEP_CANCEL) {
		consumer->mode = CONSUMER_CANCELLING;
		consumer->ended = false;
		return;
	}
	if (consumer->mode == CONSUMER_OFF)
		consumer_ref(consumer);
	consumer->mode = CONSUMER_ON;
	consumer->prefetch_told = (int)consumer->settings.prefetch;
}

void consumer_steer(struct mqfs_consumer *consumer)
{
	enum consumer_step step;
	int prefetch;

	pthread_mutex_lock(&consumer->lock);
	while (!consumer->steering && (step = consumer_next_step(consumer)) != CONSUMER_STEP_NONE) {
		enter_step(consumer, step);
		prefetch = consumer->prefetch_told;
		consumer->steering = true;
		pthread_mutex_unlock(&consumer->lock);
		if (step == CONSUMER_STEP_CANCEL)
			mqfs_cancel(consumer->backend, consumer->queue, cancelled, consumer);
		else
			mqfs_consume(consumer->backend, consumer->queue, prefetch, &sink, consumer);
		pthread_mutex_lock(&consumer->lock);
		consumer->steering = false;
	}
	pthread_mutex_unlock(&consumer->lock);
}
