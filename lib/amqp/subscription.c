/* SPDX-License-Identifier: MIT */
#include "subscription.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "amqp.subscription"
#include <mqfs/log.h>

#include "topology.h"

#define STREAMS_MAX 16
#define PREPARE_MS 10000
#define AGAIN_MS 500

struct subscription *subscription_find(struct consuming *consuming, const char *queue)
{
	struct subscription *subscription;

	HASH_FIND(by_queue, consuming->subscriptions, queue, strlen(queue), subscription);
	return subscription;
}

struct subscription *subscription_of(struct consuming *consuming, amqp_channel_t channel)
{
	return (struct subscription *)holder_find(&consuming->settling, channel);
}

struct subscription *subscription_new(struct consuming *consuming, const char *queue)
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
	if (!subscription->by_queue.tbl) {
		free(subscription->queue);
		free(subscription);
		return NULL;
	}
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
void subscription_reset(struct subscription *subscription)
{
	struct consuming *consuming = subscription->consuming;

	if (!subscription->wanted && subscription->holder.held && subscription->holder.generation > consuming->unheard)
		consuming->unheard = subscription->holder.generation;
	holder_close(&consuming->settling, &subscription->holder);
	subscription->holder.generation = 0;
	free_streams(subscription);
	subscription->state = SUBSCRIPTION_IDLE;
}

void subscription_free(struct subscription *subscription)
{
	subscription_reset(subscription);
	HASH_DELETE(by_queue, subscription->consuming->subscriptions, subscription);
	free(subscription->queue);
	free(subscription);
}

void subscription_tell_lost(struct subscription *subscription)
{
	if (subscription->wanted && subscription->holder.generation > 0)
		subscription->sink->lost(subscription->arg, subscription->holder.generation);
}

/* With its channel, if that is open. */
void subscription_close(struct subscription *subscription)
{
	struct connection *connection = subscription->consuming->connection;
	amqp_channel_t channel = subscription->holder.channel;

	subscription_free(subscription);
	if (channel)
		connection_channel_close(connection, channel);
}

/* It can't be consumed. It is gone after this. */
void subscription_end(struct subscription *subscription, int result, const char *reason)
{
	const struct mqfs_sink *sink = subscription->sink;
	void *arg = subscription->arg;
	bool wanted = subscription->wanted;

	log_debug("consuming %s ended: %s", subscription->queue, reason);
	subscription_tell_lost(subscription);
	subscription_close(subscription);
	if (wanted)
		sink->ended(arg, result, reason);
}

/* What the broker refused: for good, or to be tried again. */
void subscription_refused(struct subscription *subscription, int result, const char *reason)
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

struct stream *stream_find(struct subscription *subscription, const char *tag)
{
	struct stream *stream;

	DL_FOREACH(subscription->streams, stream)
	{
		if (strcmp(stream->tag, tag) == 0)
			break;
	}
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

void stream_drop_if_done(struct subscription *subscription, struct stream *stream)
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
int subscription_adjust(struct subscription *subscription)
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
	if (r < 0)
		return r;
	r = holder_open(&consuming->settling, &subscription->holder, channel,
	                atomic_fetch_add(consuming->generations, 1) + 1);
	if (r < 0)
		connection_channel_close(consuming->connection, channel);
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
void subscription_failed(struct subscription *subscription, int result)
{
	if (result == -ECONNRESET)
		return;
	subscription_tell_lost(subscription);
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

void subscription_prepare(struct subscription *subscription, int64_t now_ms)
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
