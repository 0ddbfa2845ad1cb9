/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>
#include <mqfs/failure.h>

#include "properties.h"
#include "publisher_internal.h"

/*
 * Lanes are opened and messages sent here; see publisher_internal.h for how it all works together.
 */

/* A stuck send ends the connection no sooner than this, even if a deadline is nearer. */
#define SEND_GRACE_MS 100
#define CALL_GRACE_MS 400
/* After a nack a new lane at most this often. */
#define REOPEN_MS 1000
#define FRAME_OVERHEAD 8

/* ---- deadlines ---- */

/* By when a send or a call that is stuck must be ended for the sake of some deadline. */
static int64_t send_deadline(struct publisher *publisher, int64_t deadline_ms)
{
	int64_t soonest_ms = mqfs_clock_monotonic_ms() + SEND_GRACE_MS;

	if (publisher->earliest_ms <= soonest_ms)
		publisher_expire(publisher, soonest_ms - SEND_GRACE_MS);
	if (deadline_ms < publisher->earliest_ms)
		publisher->earliest_ms = deadline_ms;
	return publisher->earliest_ms > soonest_ms ? publisher->earliest_ms : soonest_ms;
}

/* Calls that open and close lanes hold up the deadlines of what is on the way, which are kept here. */
static void begin_call(struct publisher *publisher)
{
	int64_t due_ms = send_deadline(publisher, MQFS_NEVER);

	publisher->connection->calls_until_ms = due_ms == MQFS_NEVER ? due_ms : due_ms + CALL_GRACE_MS;
}

static void end_call(struct publisher *publisher)
{
	publisher->connection->calls_until_ms = MQFS_NEVER;
}

/* ---- lanes ---- */

/* What was nacked in an older lane; the last first, so that they stand in line as they were sent. */
static void send_waiting(struct publisher *publisher)
{
	struct publication *publication;

	while (publisher->waiting) {
		publication = publisher->waiting->prev; /* utlist: the head's is the tail */
		DL_DELETE(publisher->waiting, publication);
		connection_requeue(publisher->connection, &publication->job);
	}
}

static int lane_open(struct publisher *publisher)
{
	struct connection *connection = publisher->connection;
	struct lane *lane = calloc(1, sizeof(*lane));
	int r;

	if (!lane) {
		connection_fail(connection, "out of memory");
		return -ENOMEM;
	}
	lane->serial = ++publisher->serials;
	lane->next_tag = 1;
	begin_call(publisher);
	r = connection_channel_open(connection, &lane->channel);
	if (r == 0) {
		connection_arm_call(connection);
		amqp_confirm_select(connection->state, lane->channel);
		r = connection_called(connection, lane->channel);
	}
	end_call(publisher);
	if (r < 0) {
		connection_fail(connection, "no channel to publish in: %s", connection->refusal.text);
		free(lane);
		return r;
	}
	publisher->reopened_ms = mqfs_clock_monotonic_ms();
	publisher->reopen = false;
	DL_PREPEND(publisher->lanes, lane);
	send_waiting(publisher);
	return 0;
}

/* Closes older lanes that wait for nothing any more. */
static void close_old_lanes(struct publisher *publisher)
{
	struct lane *lane, *tmp;

	if (!publisher->lanes)
		return;
	DL_FOREACH_SAFE(publisher->lanes->next, lane, tmp)
	{
		if (lane->on_the_way || connection_is_behind(publisher->connection))
			continue;
		begin_call(publisher);
		connection_channel_close(publisher->connection, lane->channel);
		end_call(publisher);
		lane_free(publisher, lane);
	}
}

/* ---- sending ---- */

/* 0, or why the message can't be sent: what librabbitmq finds out half-way poisons the connection. */
static int check(struct publisher *publisher, const struct publication *publication, const char **ret_reason)
{
	size_t room = (size_t)amqp_get_frame_max(publisher->connection->state) - FRAME_OVERHEAD;

	*ret_reason = "its headers are larger than a frame";
	if (properties_encoded_bytes(publication->message) > room)
		return -EINVAL;
	*ret_reason = "it is larger than the broker takes";
	if (publisher->body_bytes_max > 0 && publication->message->body->bytes > publisher->body_bytes_max)
		return -EFBIG;
	*ret_reason = "a property is longer than 255 bytes";
	return 0;
}

static void publication_send(struct job *job, void *role)
{
	struct publication *publication = (struct publication *)job;
	struct publisher *publisher = role;
	struct connection *connection = publisher->connection;
	struct lane *lane = publisher->lanes;
	struct mqfs_body *body = publication->message->body;
	amqp_basic_properties_t properties;
	const char *reason;
	mqfs_name_t key;
	int64_t arm_ms;
	int status, r;

	if (publication->job.deadline_ms <= mqfs_clock_monotonic_ms()) {
		publication_end(publication, publication->job.late_result, "it could not be sent in time");
		return;
	}
	if (publication->nacked_in == lane->serial) {
		publisher_wait(publisher, publication);
		return;
	}
	r = check(publisher, publication, &reason);
	if (r == 0)
		r = properties_write(publication->message, &publisher->pool, &properties);
	if (r < 0) {
		publication_end(publication, r, r == -ENOMEM ? "out of memory" : reason);
		return;
	}
	publication_routing_key(publication, key);
	/* Before this one is on the way: what is late there is answered and freed. */
	arm_ms = send_deadline(publisher, publication->job.deadline_ms);
	/* On the way as soon as a byte may be. */
	publication->tag = lane->next_tag;
	HASH_ADD(hh, lane->on_the_way, tag, sizeof(publication->tag), publication);
	if (!publication->hh.tbl) {
		publication_end(publication, -ENOMEM, "out of memory");
		return;
	}
	lane->next_tag++;
	publisher->on_the_way++;
	connection_arm(connection, arm_ms);
	FAILPOINT(amqp_publish_sending);
	status = amqp_basic_publish(connection->state, lane->channel, amqp_empty_bytes, amqp_cstring_bytes(key), 1, 0,
	                            &properties, (amqp_bytes_t){.len = body->bytes, .bytes = body->data});
	connection_sent(connection, status);
	FAILPOINT(amqp_publish_sent);
	recycle_amqp_pool(&publisher->pool);
}

/* ---- the role ---- */

static int publisher_opened(void *arg)
{
	struct publisher *publisher = arg;

	publisher->blocked = false;
	publisher->body_bytes_max = 0; /* it may be another broker */
	publisher->earliest_ms = MQFS_NEVER;
	return lane_open(publisher);
}

static void publisher_lost(void *arg, int result, const char *reason)
{
	struct publisher *publisher = arg;
	struct publication *publication;
	struct lane *lane;

	while ((publication = publisher->waiting)) {
		DL_DELETE(publisher->waiting, publication);
		publication_end(publication, result, reason);
	}
	while ((lane = publisher->lanes)) {
		while ((publication = lane->on_the_way)) {
			lane_remove(publisher, lane, publication);
			publication_end(publication, result, reason);
		}
		lane_free(publisher, lane);
	}
	publisher->blocked = false;
}

static bool publisher_ready(void *arg)
{
	struct publisher *publisher = arg;
	struct lane *lane = publisher->lanes;

	if (!lane || publisher->blocked || publisher->on_the_way >= PUBLISHER_WINDOW)
		return false;
	return atomic_load(&publisher->suspects) == 0 || HASH_COUNT(lane->on_the_way) == lane->shadows;
}

static bool wants_lane(const struct publisher *publisher, int64_t now_ms)
{
	return !publisher->lanes || (publisher->reopen && now_ms >= publisher->reopened_ms + REOPEN_MS);
}

static int64_t publisher_work(void *arg, int64_t now_ms)
{
	struct publisher *publisher = arg;

	if (now_ms >= publisher->earliest_ms)
		publisher_expire(publisher, now_ms);
	/* The broker answers no call when it has blocked us. */
	if (publisher->blocked || publisher->connection->failed)
		return publisher->earliest_ms;
	if (wants_lane(publisher, now_ms) && lane_open(publisher) < 0)
		return MQFS_NEVER;
	close_old_lanes(publisher);
	if (publisher->reopen && publisher->reopened_ms + REOPEN_MS < publisher->earliest_ms)
		return publisher->reopened_ms + REOPEN_MS;
	return publisher->earliest_ms;
}

const struct connection_role publisher_role = {
    .name = "publish",
    .events = &publisher_events,
    .opened = publisher_opened,
    .lost = publisher_lost,
    .ready = publisher_ready,
    .work = publisher_work,
};

struct publisher *publisher_new(struct connection *connection, struct topology *topology)
{
	struct publisher *publisher = calloc(1, sizeof(*publisher));

	if (!publisher)
		return NULL;
	publisher->connection = connection;
	publisher->topology = topology;
	publisher->earliest_ms = MQFS_NEVER;
	atomic_init(&publisher->suspects, 0);
	init_amqp_pool(&publisher->pool, 4096);
	return publisher;
}

struct publisher *publisher_free(struct publisher *publisher)
{
	if (!publisher)
		return NULL;
	assert(!publisher->lanes && !publisher->waiting);
	empty_amqp_pool(&publisher->pool);
	free(publisher);
	return NULL;
}

/* ---- any thread ---- */

/* In a level an expiration would end the wait early, and be dropped then (P3). */
static int prepare_wait(struct mqfs_message *message, int64_t level_ms)
{
	if (mqfs_message_park_expiration(message) < 0)
		return -ENOMEM;
	return mqfs_headers_set_integer(&message->headers, "mqfs-next-at", mqfs_clock_realtime_us() + level_ms * 1000);
}

int publisher_submit(struct publisher *publisher, const char *queue, enum mqfs_place place, int64_t level_ms,
                     struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct publication *publication = malloc(sizeof(*publication));
	char *name = strdup(queue);

	if (!publication || !name || (place == MQFS_PLACE_RETRY && prepare_wait(message, level_ms) < 0)) {
		mqfs_message_free(message);
		free(publication);
		free(name);
		return -ENOMEM;
	}
	*publication = (struct publication){
	    .job = {.run = publication_send,
	            .fail = publication_fail,
	            .deadline_ms = deadline_ms,
	            .late_result = -EHOSTDOWN,
	            .away_result = -EHOSTDOWN},
	    .publisher = publisher,
	    .message = message,
	    .queue = name,
	    .place = place,
	    .level_ms = level_ms,
	    .done = done,
	    .arg = arg,
	};
	connection_submit(publisher->connection, &publication->job);
	return 0;
}
