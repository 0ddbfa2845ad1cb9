/* SPDX-License-Identifier: MIT */
#include "consuming.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>

#include "publisher.h"
#include "subscription.h"
#include "topology.h"

/*
 * The consume connection as a whole: what the broker says and what the mount asks for, each handed to the subscription
 * it is about.
 */

/* How long an acknowledgement may wait for others. */
#define GATHER_MS 2
#define PREFETCH_MAX 65535

/* ---- what the broker says ---- */

static void note_counts(struct subscription *subscription, const struct mqfs_delivery *delivery)
{
	if (delivery->delivery_count < 0 || subscription->counts)
		return;
	subscription->counts = true;
	topology_set_counts(subscription->consuming->topology, subscription->queue);
}

static void on_delivery(void *arg, struct frame_content *content)
{
	struct consuming *consuming = arg;
	struct subscription *subscription = subscription_of(consuming, content->channel);
	struct mqfs_delivery *delivery;
	struct stream *stream;

	if (!subscription)
		return;
	stream = stream_find(subscription, content->consumer_tag);
	delivery = subscription->wanted && stream
	               ? holder_delivery(&subscription->holder, content, subscription->queue, MQFS_PLACE_READY)
	               : NULL;
	if (!delivery) {
		holder_decline(&consuming->settling, content->channel, content->tag);
		return;
	}
	if (holder_hold(&subscription->holder, content->tag, stream) < 0) {
		mqfs_delivery_unref(delivery);
		holder_decline(&consuming->settling, content->channel, content->tag);
		return;
	}
	stream->held++;
	note_counts(subscription, delivery);
	FAILPOINT(amqp_delivered);
	subscription->sink->delivered(subscription->arg, delivery);
	if (subscription->left > 0 && --subscription->left == 0)
		subscription->sink->drained(subscription->arg);
}

static void on_released(struct holder *holder, void *owner)
{
	struct subscription *subscription = (struct subscription *)holder;
	struct stream *stream = owner;

	stream->held--;
	if (!stream->cancelled)
		return;
	stream_drop_if_done(subscription, stream);
	subscription->consuming->dirty = true;
}

/* The queue was deleted, or its node is down, or its leader moved: what it is, preparing again will tell. */
static void on_cancelled(void *arg, amqp_channel_t channel, const char *consumer_tag)
{
	struct consuming *consuming = arg;
	struct subscription *subscription = subscription_of(consuming, channel);

	if (!subscription || !stream_find(subscription, consumer_tag))
		return;
	subscription_tell_lost(subscription);
	subscription_reset(subscription);
	subscription->start_ms = 0;
	consuming->dirty = true;
	connection_channel_close(consuming->connection, channel);
}

static void on_channel_closed(void *arg, amqp_channel_t channel, int code, const char *text)
{
	struct consuming *consuming = arg;
	struct subscription *subscription = subscription_of(consuming, channel);

	connection_channel_gone(consuming->connection, channel);
	if (!subscription)
		return;
	subscription_tell_lost(subscription);
	subscription_reset(subscription);
	if (subscription->wanted)
		subscription_refused(subscription, connection_errno(code), text);
	else
		subscription_free(subscription);
}

/* ---- the role ---- */

static int consuming_opened(void *arg)
{
	struct consuming *consuming = arg;

	consuming->connected = true;
	consuming->dirty = true;
	return 0;
}

static void consuming_lost(void *arg, int result, const char *reason)
{
	struct consuming *consuming = arg;
	struct subscription *subscription, *tmp;

	(void)reason;
	if (result == -ESHUTDOWN)
		settling_flush(&consuming->settling, MQFS_NEVER);
	consuming->connected = false;
	HASH_ITER(by_queue, consuming->subscriptions, subscription, tmp)
	{
		if (!subscription->wanted) {
			subscription_free(subscription);
			continue;
		}
		if (result != -ESHUTDOWN)
			subscription_tell_lost(subscription);
		subscription_reset(subscription);
		subscription->start_ms = 0;
	}
}

static void consuming_stopped(void *arg)
{
	struct consuming *consuming = arg;
	struct subscription *subscription, *tmp;

	HASH_ITER(by_queue, consuming->subscriptions, subscription, tmp)
	{
		subscription_free(subscription);
	}
}

static void subscription_work(struct subscription *subscription, int64_t now_ms)
{
	int r;

	if (!subscription->wanted) {
		if (!subscription->streams)
			subscription_close(subscription);
		return;
	}
	if (subscription->state == SUBSCRIPTION_IDLE && subscription->start_ms <= now_ms) {
		subscription_prepare(subscription, now_ms);
		return;
	}
	if (subscription->state != SUBSCRIPTION_RUNNING)
		return;
	r = subscription_adjust(subscription);
	if (r < 0)
		subscription_failed(subscription, r);
}

/* What the subscriptions want done; returns when next. */
static int64_t subscriptions_work(struct consuming *consuming, int64_t now_ms)
{
	struct subscription *subscription, *tmp;

	if (!consuming->dirty && now_ms < consuming->due_ms)
		return consuming->due_ms;
	consuming->dirty = false;
	HASH_ITER(by_queue, consuming->subscriptions, subscription, tmp)
	{
		if (connection_is_behind(consuming->connection)) {
			consuming->dirty = true;
			return now_ms;
		}
		if (!consuming->connection->failed)
			subscription_work(subscription, now_ms);
	}
	consuming->due_ms = MQFS_NEVER;
	HASH_ITER(by_queue, consuming->subscriptions, subscription, tmp)
	{
		if (subscription->wanted && subscription->state == SUBSCRIPTION_IDLE &&
		    subscription->start_ms < consuming->due_ms)
			consuming->due_ms = subscription->start_ms;
	}
	return consuming->dirty ? now_ms : consuming->due_ms;
}

static int64_t consuming_work(void *arg, int64_t now_ms)
{
	struct consuming *consuming = arg;
	int64_t flush_ms = settling_flush(&consuming->settling, now_ms);
	int64_t due_ms = subscriptions_work(consuming, now_ms);

	/* While acknowledgements are gathered, those to come need not wake us. */
	consuming->connection->gathering = flush_ms != MQFS_NEVER;
	return flush_ms < due_ms ? flush_ms : due_ms;
}

static const struct frame_events consuming_events = {
    .content = on_delivery,
    .cancelled = on_cancelled,
    .channel_closed = on_channel_closed,
};

const struct connection_role consuming_role = {
    .name = "consume",
    .events = &consuming_events,
    .opened = consuming_opened,
    .lost = consuming_lost,
    .work = consuming_work,
    .stopped = consuming_stopped,
};

struct consuming *consuming_new(struct connection *connection, struct publisher *publisher, struct topology *topology,
                                _Atomic uint64_t *generations)
{
	struct consuming *consuming = calloc(1, sizeof(*consuming));

	if (!consuming)
		return NULL;
	consuming->connection = connection;
	consuming->topology = topology;
	consuming->generations = generations;
	consuming->settling = (struct settling){.connection = connection,
	                                        .publisher = publisher,
	                                        .topology = topology,
	                                        .released = on_released,
	                                        .gather_ms = GATHER_MS,
	                                        .flush_ms = MQFS_NEVER};
	return consuming;
}

struct consuming *consuming_free(struct consuming *consuming)
{
	if (!consuming)
		return NULL;
	assert(!consuming->subscriptions);
	free(consuming);
	return NULL;
}

struct settling *consuming_settling(struct consuming *consuming)
{
	return &consuming->settling;
}

/* ---- consume and cancel ---- */

struct order {
	struct job job;
	char *queue;
	int prefetch;
	const struct mqfs_sink *sink;
	mqfs_done_fn *done; /* of a cancel */
	void *arg;
};

static struct order *order_free(struct order *order)
{
	free(order->queue);
	free(order);
	return NULL;
}

static void order_fail(struct job *job, int result, const char *reason)
{
	struct order *order = (struct order *)job;

	if (order->done)
		order->done(order->arg, result, reason);
	order_free(order);
}

static void start_run(struct job *job, void *role)
{
	struct order *order = (struct order *)job;
	struct consuming *consuming = role;
	struct subscription *subscription = subscription_find(consuming, order->queue);

	if (!subscription) {
		/* Nothing is held for it; it may have been when it ended. */
		if (consuming->unheard > 0)
			order->sink->lost(order->arg, consuming->unheard);
		subscription = subscription_new(consuming, order->queue);
	}
	if (!subscription) {
		order->sink->ended(order->arg, -ENOMEM, "out of memory");
		order_free(order);
		return;
	}
	if (!subscription->wanted) {
		subscription->serial = ++consuming->serials;
		subscription->state = SUBSCRIPTION_IDLE;
		subscription->start_ms = 0;
	}
	subscription->wanted = true;
	subscription->prefetch = order->prefetch;
	subscription->sink = order->sink;
	subscription->arg = order->arg;
	consuming->dirty = true;
	order_free(order);
}

static void cancel_run(struct job *job, void *role)
{
	struct order *order = (struct order *)job;
	struct consuming *consuming = role;
	struct subscription *subscription = subscription_find(consuming, order->queue);
	int r = 0;

	if (subscription) {
		subscription->wanted = false;
		consuming->dirty = true;
		if (consuming->connected && subscription->holder.channel)
			r = subscription_adjust(subscription);
		if (!consuming->connected || (r < 0 && r != -ECONNRESET))
			subscription_free(subscription);
	}
	order->done(order->arg, 0, NULL);
	order_free(order);
}

static struct order *order_new(void (*run)(struct job *job, void *role), const char *queue, void *arg)
{
	struct order *order = malloc(sizeof(*order));

	if (!order)
		return NULL;
	*order = (struct order){
	    .job = {.run = run, .fail = order_fail, .deadline_ms = MQFS_NEVER, .anytime = true},
	    .queue = strdup(queue),
	    .arg = arg,
	};
	return order->queue ? order : order_free(order);
}

int consuming_start(struct consuming *consuming, const char *queue, int prefetch, const struct mqfs_sink *sink,
                    void *arg)
{
	struct order *order = order_new(start_run, queue, arg);

	if (!order)
		return -ENOMEM;
	order->prefetch = prefetch < PREFETCH_MAX ? prefetch : PREFETCH_MAX;
	order->sink = sink;
	connection_submit(consuming->connection, &order->job);
	return 0;
}

int consuming_cancel(struct consuming *consuming, const char *queue, mqfs_done_fn *done, void *arg)
{
	struct order *order = order_new(cancel_run, queue, arg);

	if (!order)
		return -ENOMEM;
	order->done = done;
	connection_submit(consuming->connection, &order->job);
	return 0;
}
