/* SPDX-License-Identifier: MIT */
#include "consuming.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "amqp.consuming"
#include <mqfs/log.h>

#include "publisher.h"
#include "topology.h"

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

#define PREFETCH_MAX 65535
#define STREAMS_MAX 16
#define PREPARE_MS 10000
#define AGAIN_MS 500

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
	unsigned tags;
	bool connected;
	bool dirty; /* some subscription needs consuming_work */
	int64_t due_ms;
};

static struct subscription *subscription_find(struct consuming *consuming, const char *queue)
{
	struct subscription *subscription;

	HASH_FIND(by_queue, consuming->subscriptions, queue, strlen(queue), subscription);
	return subscription;
}

static struct subscription *subscription_of(struct consuming *consuming, amqp_channel_t channel)
{
	return (struct subscription *)holder_find(&consuming->settling, channel);
}

static struct subscription *subscription_new(struct consuming *consuming, const char *queue)
{
	struct subscription *subscription = calloc(1, sizeof(*subscription));

	if (!subscription)
		return NULL;
	subscription->queue = strdup(queue);
	if (!subscription->queue) {
		free(subscription);
		return NULL;
	}
	subscription->consuming = consuming;
	subscription->serial = ++consuming->serials;
	HASH_ADD_KEYPTR(by_queue, consuming->subscriptions, subscription->queue, strlen(queue), subscription);
	return subscription;
}

static void free_streams(struct subscription *subscription)
{
	struct stream *stream, *tmp;

	DL_FOREACH_SAFE(subscription->streams, stream, tmp)
	{
		DL_DELETE(subscription->streams, stream);
		free(stream);
	}
}

/* Its channel is no more: what it holds is the broker's again. */
static void subscription_reset(struct subscription *subscription)
{
	holder_close(&subscription->consuming->settling, &subscription->holder);
	subscription->holder.generation = 0;
	free_streams(subscription);
	subscription->state = SUBSCRIPTION_IDLE;
}

static void subscription_free(struct subscription *subscription)
{
	subscription_reset(subscription);
	HASH_DELETE(by_queue, subscription->consuming->subscriptions, subscription);
	free(subscription->queue);
	free(subscription);
}

static void tell_lost(struct subscription *subscription)
{
	if (subscription->wanted && subscription->holder.generation > 0)
		subscription->sink->lost(subscription->arg, subscription->holder.generation);
}

/* With its channel, if that is open. */
static void subscription_close(struct subscription *subscription)
{
	struct connection *connection = subscription->consuming->connection;
	amqp_channel_t channel = subscription->holder.channel;

	subscription_free(subscription);
	if (channel)
		connection_channel_close(connection, channel);
}

/* It can't be consumed. It is gone after this. */
static void subscription_end(struct subscription *subscription, int result, const char *reason)
{
	const struct mqfs_sink *sink = subscription->sink;
	void *arg = subscription->arg;
	bool wanted = subscription->wanted;

	log_debug("consuming %s ended: %s", subscription->queue, reason);
	tell_lost(subscription);
	subscription_close(subscription);
	if (wanted)
		sink->ended(arg, result, reason);
}

/* What the broker refused: for good, or to be tried again. */
static void subscription_refused(struct subscription *subscription, int result, const char *reason)
{
	if (result == -ENOENT || result == -EACCES) {
		subscription_end(subscription, result, reason);
		return;
	}
	log_debug("consuming %s: %s", subscription->queue, reason);
	subscription->state = SUBSCRIPTION_IDLE;
	subscription->start_ms = mqfs_clock_monotonic_ms() + AGAIN_MS;
	subscription->consuming->dirty = true;
}

/* ---- streams ---- */

static struct stream *stream_find(struct subscription *subscription, const char *tag)
{
	struct stream *stream;

	DL_FOREACH(subscription->streams, stream)
	if (strcmp(stream->tag, tag) == 0)
		break;
	return stream;
}

/* 0, -ECONNRESET, or a refusal, with which the channel went. */
static int stream_start(struct subscription *subscription, int prefetch)
{
	struct connection *connection = subscription->consuming->connection;
	amqp_channel_t channel = subscription->holder.channel;
	struct stream *stream = calloc(1, sizeof(*stream));
	int r;

	if (!stream) {
		connection_fail(connection, "out of memory");
		return -ECONNRESET;
	}
	stream->prefetch = prefetch;
	snprintf(stream->tag, sizeof(stream->tag), "mqfs-%u", ++subscription->consuming->tags);
	DL_APPEND(subscription->streams, stream);
	connection_arm_call(connection);
	amqp_basic_qos(connection->state, channel, 0, (uint16_t)prefetch, 0);
	r = connection_called(connection, channel);
	if (r < 0)
		return r;
	connection_arm_call(connection);
	amqp_basic_consume(connection->state, channel, amqp_cstring_bytes(subscription->queue),
	                   amqp_cstring_bytes(stream->tag), 0, 0, 0, amqp_empty_table);
	return connection_called(connection, channel);
}

static int stream_cancel(struct subscription *subscription, struct stream *stream)
{
	struct connection *connection = subscription->consuming->connection;

	stream->cancelled = true;
	connection_arm_call(connection);
	amqp_basic_cancel(connection->state, subscription->holder.channel, amqp_cstring_bytes(stream->tag));
	return connection_called(connection, subscription->holder.channel);
}

static void stream_drop_if_done(struct subscription *subscription, struct stream *stream)
{
	if (!stream->cancelled || stream->held > 0)
		return;
	DL_DELETE(subscription->streams, stream);
	free(stream);
}

/* How much of the prefetch the running streams have, and what is held of cancelled ones. */
static void count_streams(const struct subscription *subscription, int *ret_running, int *ret_held, int *ret_count)
{
	struct stream *stream;

	*ret_running = *ret_held = *ret_count = 0;
	DL_FOREACH(subscription->streams, stream)
	{
		++*ret_count;
		if (stream->cancelled)
			*ret_held += stream->held;
		else
			*ret_running += stream->prefetch;
	}
}

/* Brings the streams nearer to the prefetch. Deliveries of a cancelled stream may still be in the line of frames,
 * so after a cancel the rest is left to the next round. */
static int subscription_adjust(struct subscription *subscription)
{
	int want = subscription->wanted ? subscription->prefetch : 0;
	int running, held, count, missing, r = 0;
	struct stream *stream, *tmp;
	bool cancelled = false;

	count_streams(subscription, &running, &held, &count);
	DL_FOREACH_SAFE(subscription->streams, stream, tmp)
	{
		if (stream->cancelled || (running <= want && count < STREAMS_MAX))
			continue;
		running -= stream->prefetch;
		count--;
		r = stream_cancel(subscription, stream);
		if (r < 0)
			return r;
		stream_drop_if_done(subscription, stream);
		cancelled = true;
	}
	if (cancelled) {
		subscription->consuming->dirty = true;
		return 0;
	}
	missing = want - running;
	if (missing <= 0 || missing <= held)
		return 0;
	/* Not one consumer for each that is settled: half of what is missing at least. */
	if (running > 0 && (missing - held) * 2 < missing)
		return 0;
	return stream_start(subscription, missing - held);
}

/* ---- starting ---- */

static int open_channel(struct subscription *subscription)
{
	struct consuming *consuming = subscription->consuming;
	amqp_channel_t channel;
	int r;

	if (subscription->holder.channel)
		return 0;
	r = connection_channel_open(consuming->connection, &channel);
	if (r == 0)
		holder_open(&consuming->settling, &subscription->holder, channel,
		            atomic_fetch_add(consuming->generations, 1) + 1);
	return r;
}

static int count_ready(struct subscription *subscription)
{
	struct connection *connection = subscription->consuming->connection;
	amqp_queue_declare_ok_t *ok;
	int r;

	connection_arm_call(connection);
	ok = amqp_queue_declare(connection->state, subscription->holder.channel,
	                        amqp_cstring_bytes(subscription->queue), 1, 1, 0, 0, amqp_empty_table);
	r = connection_called(connection, subscription->holder.channel);
	if (r == 0)
		subscription->left = ok->message_count;
	return r;
}

/* A call for this subscription was refused, and its channel is gone; or the whole connection is, which tells all. */
static void subscription_failed(struct subscription *subscription, int result)
{
	if (result == -ECONNRESET)
		return;
	tell_lost(subscription);
	subscription_reset(subscription);
	subscription_refused(subscription, result, subscription->consuming->connection->refusal.text);
}

static void subscription_run(struct subscription *subscription)
{
	int r = open_channel(subscription);

	subscription->state = SUBSCRIPTION_RUNNING;
	if (r == 0)
		r = count_ready(subscription);
	if (r == 0)
		r = subscription_adjust(subscription);
	if (r < 0) {
		subscription_failed(subscription, r);
		return;
	}
	log_debug("consuming %s, %lld ready", subscription->queue, (long long)subscription->left);
	if (subscription->left == 0)
		subscription->sink->drained(subscription->arg);
}

/* Topology's answer, on its way back to the owner thread. */
struct preparation {
	struct job job;
	struct consuming *consuming;
	char *queue;
	uint64_t serial;
	int result;
	char reason[256];
};

static void preparation_fail(struct job *job, int result, const char *reason)
{
	struct preparation *preparation = (struct preparation *)job;

	(void)result;
	(void)reason;
	free(preparation->queue);
	free(preparation);
}

static bool is_passing(int result)
{
	return result == -EHOSTDOWN || result == -ETIMEDOUT || result == -ENOMEM;
}

static void preparation_run(struct job *job, void *role)
{
	struct preparation *preparation = (struct preparation *)job;
	struct consuming *consuming = role;
	struct subscription *subscription = subscription_find(consuming, preparation->queue);
	int result = preparation->result;

	if (!subscription || subscription->serial != preparation->serial || !subscription->wanted ||
	    subscription->state != SUBSCRIPTION_PREPARING)
		goto out;
	if (is_passing(result) || result == -ENOENT) {
		subscription_refused(subscription, result, result == -ENOENT ? "no such queue" : preparation->reason);
		goto out;
	}
	subscription->sink->prepared(subscription->arg, result, result < 0 ? preparation->reason : NULL);
	if (consuming->connected)
		subscription_run(subscription);
	else
		subscription->state = SUBSCRIPTION_IDLE;
out:
	preparation_fail(job, 0, NULL);
}

static void places_prepared(void *arg, int result, const char *reason)
{
	struct preparation *preparation = arg;

	preparation->result = result;
	snprintf(preparation->reason, sizeof(preparation->reason), "%s", reason ? reason : "");
	connection_submit(preparation->consuming->connection, &preparation->job);
}

static void subscription_prepare(struct subscription *subscription, int64_t now_ms)
{
	struct consuming *consuming = subscription->consuming;
	struct preparation *preparation = malloc(sizeof(*preparation));
	char *queue = strdup(subscription->queue);

	if (preparation && queue) {
		*preparation = (struct preparation){
		    .job = {.run = preparation_run,
		            .fail = preparation_fail,
		            .deadline_ms = MQFS_NEVER,
		            .anytime = true},
		    .consuming = consuming,
		    .queue = queue,
		    .serial = subscription->serial,
		};
		subscription->state = SUBSCRIPTION_PREPARING;
		if (topology_prepare(consuming->topology, queue, now_ms + PREPARE_MS, places_prepared, preparation) ==
		    0)
			return;
	}
	free(queue);
	free(preparation);
	subscription_refused(subscription, -ENOMEM, "out of memory");
}

/* ---- what the broker says ---- */

static int fill_delivery(struct subscription *subscription, struct frame_content *content,
                         struct mqfs_delivery **ret_delivery)
{
	struct mqfs_delivery *delivery = mqfs_delivery_new(content->message, subscription->queue);

	if (!delivery)
		return -ENOMEM;
	content->message = NULL;
	delivery->exchange = content->exchange;
	delivery->routing_key = content->routing_key;
	content->exchange = content->routing_key = NULL;
	delivery->place = MQFS_PLACE_READY;
	delivery->redelivered = content->redelivered;
	delivery->delivery_count = mqfs_headers_integer(&delivery->message->headers, "x-delivery-count", -1);
	delivery->delivered_ms = mqfs_clock_monotonic_ms();
	delivery->generation = subscription->holder.generation;
	delivery->channel = content->channel;
	delivery->tag = content->tag;
	*ret_delivery = delivery;
	return 0;
}

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
	if (!subscription->wanted || !stream || fill_delivery(subscription, content, &delivery) < 0) {
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

static void on_cancelled(void *arg, amqp_channel_t channel, const char *consumer_tag)
{
	struct subscription *subscription = subscription_of(arg, channel);

	if (subscription && stream_find(subscription, consumer_tag))
		subscription_end(subscription, -ENOENT, "the queue was deleted, or its node is down");
}

static void on_channel_closed(void *arg, amqp_channel_t channel, int code, const char *text)
{
	struct consuming *consuming = arg;
	struct subscription *subscription = subscription_of(consuming, channel);

	connection_channel_gone(consuming->connection, channel);
	if (!subscription)
		return;
	tell_lost(subscription);
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
	consuming->connected = false;
	HASH_ITER(by_queue, consuming->subscriptions, subscription, tmp)
	{
		if (!subscription->wanted) {
			subscription_free(subscription);
			continue;
		}
		if (result != -ESHUTDOWN)
			tell_lost(subscription);
		subscription_reset(subscription);
		subscription->start_ms = 0;
	}
}

static void consuming_stopped(void *arg)
{
	struct consuming *consuming = arg;
	struct subscription *subscription, *tmp;

	HASH_ITER(by_queue, consuming->subscriptions, subscription, tmp)
	subscription_free(subscription);
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

static int64_t consuming_work(void *arg, int64_t now_ms)
{
	struct consuming *consuming = arg;
	struct subscription *subscription, *tmp;

	if (!consuming->dirty && now_ms < consuming->due_ms)
		return consuming->due_ms;
	consuming->dirty = false;
	HASH_ITER(by_queue, consuming->subscriptions, subscription, tmp)
	if (!consuming->connection->failed)
		subscription_work(subscription, now_ms);
	consuming->due_ms = MQFS_NEVER;
	HASH_ITER(by_queue, consuming->subscriptions, subscription, tmp)
	if (subscription->wanted && subscription->state == SUBSCRIPTION_IDLE &&
	    subscription->start_ms < consuming->due_ms)
		consuming->due_ms = subscription->start_ms;
	return consuming->dirty ? now_ms : consuming->due_ms;
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
	consuming->settling = (struct settling){
	    .connection = connection, .publisher = publisher, .topology = topology, .released = on_released};
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

	if (!subscription)
		subscription = subscription_new(consuming, order->queue);
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
