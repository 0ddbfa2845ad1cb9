/* SPDX-License-Identifier: MIT */
#include "publisher.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include <mqfs/clock.h>
#include <mqfs/name.h>
#define LOG_TOPIC "amqp.publisher"
#include <mqfs/log.h>

#include "properties.h"
#include "topology.h"

/*
 * A publication is a job of the publish connection until it is sent; from then on it is on the way, in the
 * lane it was sent in, until the broker says ack or nack. A lane is a channel in confirm mode: its tags count
 * from 1, and an ack may speak for all up to its tag. Before the ack of a message that no queue took there
 * comes a basic.return, which has no tag but the whole message: it is found by its routing key, message-id and
 * mqfs-copy header. (One without these looks like its twins, but so does what becomes of them.)
 *
 * There is one lane that is sent in, and there may be older ones that only wait for their last acks. A new one
 * is opened after a nack, since the broker may go on talking to a quorum queue's former leader in the
 * old one, and of course after the broker closed the channel. It does that when it refuses one message,
 * without saying which, and all others on the way in the lane are gone with it. These are sent again, one
 * at a time: the one at which the channel closes again is the one (a suspect is cleared by its ack).
 * Some arrive twice that way, with the same message-id; none is lost, and none fails for its neighbour.
 *
 * One whose deadline passes on the way is answered, and stays as a shadow in its lane until its ack comes, so
 * that the window bounds what the broker owes us.
 *
 * All is the owner thread's, but for jobs that wait in the connection's line, and suspects.
 */

#define WINDOW 1000
/* A stuck send ends the connection no sooner than this, even if a deadline is nearer. */
#define SEND_GRACE_MS 100
/* After a nack a new lane at most this often. */
#define REOPEN_MS 1000
#define LANE_RETRY_MS 500
#define FRAME_OVERHEAD 8

struct lane {
	struct lane *prev, *next;
	amqp_channel_t channel;
	uint64_t next_tag;
	struct publication *on_the_way; /* uthash by tag, in order */
};

struct publication {
	struct job job;
	struct publisher *publisher;
	struct mqfs_message *message; /* NULL in a shadow */
	char *queue;
	enum mqfs_place place;
	int64_t level_ms;
	int64_t deadline_ms;
	mqfs_done_fn *done; /* NULL in a shadow */
	void *arg;
	uint64_t tag;
	int returned;  /* outcome said by basic.return, or 0 */
	bool suspect;  /* was on the way in a lane that the broker closed */
	bool prepared; /* its place has been made since it was returned */
	UT_hash_handle hh;
};

struct publisher {
	struct connection *connection;
	struct topology *topology;
	struct lane *lanes;  /* the first is sent in; NULL: none */
	unsigned on_the_way; /* in all lanes, shadows too */
	int64_t earliest_ms; /* no deadline on the way is earlier */
	int64_t reopened_ms;
	bool reopen; /* a nack came */
	bool blocked;
	size_t body_bytes_max; /* learnt from a refusal; 0: unknown */
	amqp_pool_t pool;      /* what one message is encoded from */

	atomic_uint suspects; /* suspect publications that are unanswered */
};

/* ---- outcomes ---- */

static void publication_free(struct publication *publication)
{
	if (publication->suspect)
		atomic_fetch_sub(&publication->publisher->suspects, 1);
	mqfs_message_free(publication->message);
	free(publication->queue);
	free(publication);
}

static void publication_end(struct publication *publication, int result, const char *reason)
{
	mqfs_done_fn *done = publication->done;
	void *arg = publication->arg;

	publication_free(publication);
	if (done)
		done(arg, result, reason);
}

static void publication_fail(struct job *job, int result, const char *reason)
{
	publication_end((struct publication *)job, result, reason);
}

/* The place that was missing has been made, or not. On topology's thread. */
static void place_made(void *arg, int result, const char *reason)
{
	struct publication *publication = arg;

	if (result < 0) {
		publication_end(publication, result, reason);
		return;
	}
	connection_submit(publication->publisher->connection, &publication->job);
}

static bool is_helper(enum mqfs_place place)
{
	return place == MQFS_PLACE_RETRY || place == MQFS_PLACE_DEAD;
}

/* The broker has spoken: publication is in no lane any more. */
static void publication_settle(struct publication *publication, int result)
{
	static const char nobody[] = "no such queue";

	if (result == 0)
		result = publication->returned;
	if (!publication->done || result != -ENOENT) {
		publication_end(publication, result,
		                result == -ENOSPC ? "the queue is full, or refuses messages" : NULL);
		return;
	}
	if (!is_helper(publication->place) || publication->prepared) {
		publication_end(publication, result, nobody);
		return;
	}
	publication->prepared = true;
	publication->returned = 0;
	topology_make_place(publication->publisher->topology, publication->queue, publication->place,
	                    publication->level_ms, publication->deadline_ms, place_made, publication);
}

/* ---- lanes ---- */

static int lane_open(struct publisher *publisher)
{
	struct connection *connection = publisher->connection;
	struct lane *lane = calloc(1, sizeof(*lane));
	int r;

	if (!lane) {
		connection_fail(connection, "out of memory");
		return -ENOMEM;
	}
	lane->next_tag = 1;
	r = connection_channel_open(connection, &lane->channel);
	if (r == 0) {
		connection_arm_call(connection);
		amqp_confirm_select(connection->state, lane->channel);
		r = connection_called(connection, lane->channel);
	}
	if (r < 0) {
		connection_fail(connection, "no channel to publish in: %s", connection->refusal.text);
		free(lane);
		return r;
	}
	publisher->reopened_ms = mqfs_clock_monotonic_ms();
	publisher->reopen = false;
	DL_PREPEND(publisher->lanes, lane);
	return 0;
}

static struct lane *lane_find(struct publisher *publisher, amqp_channel_t channel)
{
	struct lane *lane;

	DL_FOREACH(publisher->lanes, lane)
	if (lane->channel == channel)
		break;
	return lane;
}

static void lane_remove(struct publisher *publisher, struct lane *lane, struct publication *publication)
{
	HASH_DEL(lane->on_the_way, publication);
	publisher->on_the_way--;
}

static void lane_free(struct publisher *publisher, struct lane *lane)
{
	assert(!lane->on_the_way);
	DL_DELETE(publisher->lanes, lane);
	free(lane);
}

/* Closes older lanes that wait for nothing any more. */
static void close_old_lanes(struct publisher *publisher)
{
	struct lane *lane, *tmp;

	if (!publisher->lanes)
		return;
	DL_FOREACH_SAFE(publisher->lanes->next, lane, tmp)
	{
		if (lane->on_the_way)
			continue;
		connection_channel_close(publisher->connection, lane->channel);
		lane_free(publisher, lane);
	}
}

/* ---- sending ---- */

/* Answers what is on the way and late, and looks for the next deadline. */
static void expire(struct publisher *publisher, int64_t now_ms)
{
	struct publication *publication, *tmp;
	struct lane *lane;

	publisher->earliest_ms = MQFS_NEVER;
	DL_FOREACH(publisher->lanes, lane)
	{
		HASH_ITER(hh, lane->on_the_way, publication, tmp)
		{
			mqfs_done_fn *done = publication->done;

			if (!done)
				continue;
			if (publication->deadline_ms > now_ms) {
				if (publication->deadline_ms < publisher->earliest_ms)
					publisher->earliest_ms = publication->deadline_ms;
				continue;
			}
			publication->done = NULL;
			publication->message = mqfs_message_free(publication->message);
			done(publication->arg, -ETIMEDOUT, "the broker did not confirm it in time");
		}
	}
}

/* The time by which a send that is stuck must be ended for the sake of some deadline. */
static int64_t send_deadline(struct publisher *publisher, int64_t deadline_ms)
{
	int64_t soonest_ms = mqfs_clock_monotonic_ms() + SEND_GRACE_MS;

	if (publisher->earliest_ms <= soonest_ms)
		expire(publisher, soonest_ms - SEND_GRACE_MS);
	if (deadline_ms < publisher->earliest_ms)
		publisher->earliest_ms = deadline_ms;
	return publisher->earliest_ms > soonest_ms ? publisher->earliest_ms : soonest_ms;
}

static void routing_key(const struct publication *publication, mqfs_name_t ret_name)
{
	switch (publication->place) {
	case MQFS_PLACE_RETRY:
		mqfs_name_delay_queue(publication->queue, publication->level_ms, ret_name);
		return;
	case MQFS_PLACE_DEAD:
		mqfs_name_dead_queue(publication->queue, ret_name);
		return;
	default:
		snprintf(ret_name, sizeof(mqfs_name_t), "%s", publication->queue);
	}
}

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
	int status, r;

	r = check(publisher, publication, &reason);
	if (r == 0)
		r = properties_write(publication->message, &publisher->pool, &properties);
	if (r < 0) {
		publication_end(publication, r, r == -ENOMEM ? "out of memory" : reason);
		return;
	}
	routing_key(publication, key);
	/* On the way as soon as a byte may be. */
	publication->tag = lane->next_tag++;
	HASH_ADD(hh, lane->on_the_way, tag, sizeof(publication->tag), publication);
	publisher->on_the_way++;
	connection_arm(connection, send_deadline(publisher, publication->deadline_ms));
	status = amqp_basic_publish(connection->state, lane->channel, amqp_empty_bytes, amqp_cstring_bytes(key), 1, 0,
	                            &properties, (amqp_bytes_t){.len = body->bytes, .bytes = body->data});
	connection_sent(connection, status);
	recycle_amqp_pool(&publisher->pool);
}

/* ---- what the broker says ---- */

static void on_ack(struct publisher *publisher, struct lane *lane, uint64_t tag, int result)
{
	struct publication *publication;

	HASH_FIND(hh, lane->on_the_way, &tag, sizeof(tag), publication);
	if (!publication) {
		log_debug("a confirm for what is not on the way");
		return;
	}
	lane_remove(publisher, lane, publication);
	publication_settle(publication, result);
}

static void on_acked(void *arg, amqp_channel_t channel, uint64_t tag, bool multiple, bool positive)
{
	struct publisher *publisher = arg;
	struct lane *lane = lane_find(publisher, channel);
	int result = positive ? 0 : -ENOSPC;

	if (!lane)
		return;
	publisher->reopen |= !positive && lane == publisher->lanes;
	if (!multiple) {
		on_ack(publisher, lane, tag, result);
		return;
	}
	/* The hash is in order of its additions, which is that of the tags. Completions don't come back in here. */
	while (lane->on_the_way && (tag == 0 || lane->on_the_way->tag <= tag))
		on_ack(publisher, lane, lane->on_the_way->tag, result);
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Was this publication returned? A shadow has no message to tell by. */
static bool is_returned(const struct publication *publication, const struct frame_content *content)
{
	const struct mqfs_message *sent = publication->message, *came = content->message;
	mqfs_name_t key;

	if (!sent || publication->returned != 0 || !same_text(sent->message_id, came->message_id) ||
	    !same_text(mqfs_headers_string(&sent->headers, "mqfs-copy"),
	               mqfs_headers_string(&came->headers, "mqfs-copy")))
		return false;
	routing_key(publication, key);
	return strcmp(key, content->routing_key) == 0;
}

/* Returns come in the order of publishing: the first that fits and has none yet is meant. */
static void on_return(void *arg, struct frame_content *content)
{
	struct publisher *publisher = arg;
	struct lane *lane = lane_find(publisher, content->channel);
	struct publication *publication, *tmp;

	if (!lane || content->kind != FRAME_RETURN)
		return;
	HASH_ITER(hh, lane->on_the_way, publication, tmp)
	{
		if (!is_returned(publication, content))
			continue;
		publication->returned = -ENOENT;
		return;
	}
	log_debug("a return of what is not on the way");
}

static int refusal_errno(int code, const char *text)
{
	/* "message size 2000 is larger than configured max size 1000" */
	if (code == AMQP_PRECONDITION_FAILED && strstr(text, "larger than"))
		return -EFBIG;
	return connection_errno(code);
}

static void learn_max_body(struct publisher *publisher, const char *text)
{
	static const char before[] = "max size ";
	const char *at = strstr(text, before);

	if (at)
		publisher->body_bytes_max = strtoul(at + strlen(before), NULL, 10);
}

static struct publication *only_one(struct lane *lane)
{
	return HASH_COUNT(lane->on_the_way) == 1 ? lane->on_the_way : NULL;
}

/* The last first, so that they stand in line as they were sent. */
static void send_again(struct publisher *publisher, struct lane *lane)
{
	struct publication *publication;

	while ((publication = lane->on_the_way)) {
		publication = ELMT_FROM_HH(lane->on_the_way->hh.tbl, lane->on_the_way->hh.tbl->tail);
		lane_remove(publisher, lane, publication);
		if (!publication->done) {
			publication_free(publication);
			continue;
		}
		if (!publication->suspect)
			atomic_fetch_add(&publisher->suspects, 1);
		publication->suspect = true;
		publication->returned = 0;
		publication->job.late_result = -ETIMEDOUT; /* it may have arrived */
		connection_requeue(publisher->connection, &publication->job);
	}
}

static void on_channel_closed(void *arg, amqp_channel_t channel, int code, const char *text)
{
	struct publisher *publisher = arg;
	struct lane *lane = lane_find(publisher, channel);
	struct publication *guilty;
	int result = refusal_errno(code, text);

	if (!lane)
		return;
	log_debug("the broker refused a message: %d %s", code, text);
	connection_channel_gone(publisher->connection, channel);
	if (result == -EFBIG)
		learn_max_body(publisher, text);
	guilty = only_one(lane);
	if (guilty) {
		lane_remove(publisher, lane, guilty);
		publication_end(guilty, result, text);
	} else {
		send_again(publisher, lane);
	}
	lane_free(publisher, lane);
}

static void on_blocked(void *arg, const char *reason)
{
	struct publisher *publisher = arg;

	publisher->blocked = reason != NULL;
	connection_set_blocked(publisher->connection, reason);
}

/* ---- the role ---- */

static int publisher_opened(void *arg)
{
	struct publisher *publisher = arg;

	publisher->blocked = false;
	publisher->earliest_ms = MQFS_NEVER;
	return lane_open(publisher);
}

static void publisher_lost(void *arg, int result, const char *reason)
{
	struct publisher *publisher = arg;
	struct publication *publication;
	struct lane *lane;

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

	if (!lane || publisher->blocked || publisher->on_the_way >= WINDOW)
		return false;
	return atomic_load(&publisher->suspects) == 0 || !lane->on_the_way;
}

static int64_t publisher_work(void *arg, int64_t now_ms)
{
	struct publisher *publisher = arg;

	if (now_ms >= publisher->earliest_ms)
		expire(publisher, now_ms);
	if (!publisher->lanes || (publisher->reopen && now_ms >= publisher->reopened_ms + REOPEN_MS)) {
		if (lane_open(publisher) < 0)
			return MQFS_NEVER;
	}
	close_old_lanes(publisher);
	if (publisher->reopen && publisher->reopened_ms + REOPEN_MS < publisher->earliest_ms)
		return publisher->reopened_ms + REOPEN_MS;
	return publisher->earliest_ms;
}

static const struct frame_events publisher_events = {
    .content = on_return,
    .acked = on_acked,
    .channel_closed = on_channel_closed,
    .blocked = on_blocked,
};

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
	assert(!publisher->lanes);
	empty_amqp_pool(&publisher->pool);
	free(publisher);
	return NULL;
}

/* ---- any thread ---- */

static int set_next_at(struct mqfs_message *message, int64_t level_ms)
{
	return mqfs_headers_set_integer(&message->headers, "mqfs-next-at", mqfs_clock_realtime_us() + level_ms * 1000);
}

int publisher_submit(struct publisher *publisher, const char *queue, enum mqfs_place place, int64_t level_ms,
                     struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct publication *publication = malloc(sizeof(*publication));
	char *name = strdup(queue);

	if (!publication || !name || (place == MQFS_PLACE_RETRY && set_next_at(message, level_ms) < 0)) {
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
	    .deadline_ms = deadline_ms,
	    .done = done,
	    .arg = arg,
	};
	connection_submit(publisher->connection, &publication->job);
	return 0;
}
