/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "amqp.confirms"
#include <mqfs/failpoint.h>
#include <mqfs/log.h>

#include "publisher_internal.h"
#include "topology.h"

/* A quorum queue has a new leader within a second or two; there is a new lane each second. */
#define NACKS_MAX 3

/*
 * What becomes of what is on the way: acks, nacks, returns, refusals and deadlines.
 */

/* ---- outcomes ---- */

static void clear(struct publication *publication)
{
	if (publication->suspect)
		atomic_fetch_sub(&publication->publisher->suspects, 1);
	publication->suspect = false;
}

static void publication_free(struct publication *publication)
{
	clear(publication);
	mqfs_message_free(publication->message);
	free(publication->queue);
	free(publication);
}

void publication_end(struct publication *publication, int result, const char *reason)
{
	mqfs_done_fn *done = publication->done;
	void *arg = publication->arg;

	publication_free(publication);
	if (done)
		done(arg, result, reason);
}

void publication_fail(struct job *job, int result, const char *reason)
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
	FAILPOINT(amqp_place_made);
	connection_submit(publication->publisher->connection, &publication->job);
}

/* ---- nacks ---- */

static const char full[] = "the queue is full, or refuses messages";

void publisher_wait(struct publisher *publisher, struct publication *publication)
{
	DL_APPEND(publisher->waiting, publication);
	if (publication->job.deadline_ms < publisher->earliest_ms)
		publisher->earliest_ms = publication->job.deadline_ms;
}

/* In the next lane, or in the present one if it was nacked in an older one. */
static void send_once_more(struct publisher *publisher, struct publication *publication)
{
	if (publication->nacked_in == publisher->lanes->serial)
		publisher_wait(publisher, publication);
	else
		connection_requeue(publisher->connection, &publication->job);
}

/* Topology has found out what it could. On its thread. */
static void kind_learnt(void *arg, int result, const char *reason)
{
	struct publication *publication = arg;
	struct publisher *publisher = publication->publisher;

	if (topology_counts(publisher->topology, publication->queue))
		connection_submit(publisher->connection, &publication->job);
	else if (result < 0) /* the broker doesn't have it, and may just as well have no leader */
		publication_end(publication, -EHOSTDOWN, reason);
	else
		publication_end(publication, -ENOSPC, full);
}

/* Refused, or only not taken just now? The delay levels are quorum queues. */
static void publication_nacked(struct publication *publication, const struct lane *lane)
{
	struct publisher *publisher = publication->publisher;

	if (publication->place == MQFS_PLACE_READY)
		topology_note_refusal(publisher->topology, publication->queue);
	if (!publication->done || publication->nacks++ == NACKS_MAX || publication->place == MQFS_PLACE_DEAD) {
		publication_end(publication, -ENOSPC, full);
		return;
	}
	publication->nacked_in = lane->serial;
	publication->returned = 0;
	publication->job.late_result = -ENOSPC;
	if (publication->place == MQFS_PLACE_RETRY || topology_counts(publisher->topology, publication->queue))
		send_once_more(publisher, publication);
	else if (topology_learn(publisher->topology, publication->queue, publication->job.deadline_ms, kind_learnt,
	                        publication) < 0)
		publication_end(publication, -ENOSPC, full);
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
		publication_end(publication, result, NULL);
		return;
	}
	if (!is_helper(publication->place) || publication->prepared) {
		publication_end(publication, result, nobody);
		return;
	}
	publication->prepared = true;
	publication->returned = 0;
	topology_make_place(publication->publisher->topology, publication->queue, publication->place,
	                    publication->level_ms, publication->job.deadline_ms, place_made, publication);
}

/* ---- lanes ---- */

static struct lane *lane_find(struct publisher *publisher, amqp_channel_t channel)
{
	struct lane *lane;

	DL_FOREACH(publisher->lanes, lane)
	{
		if (lane->channel == channel)
			break;
	}
	return lane;
}

void lane_remove(struct publisher *publisher, struct lane *lane, struct publication *publication)
{
	HASH_DEL(lane->on_the_way, publication);
	publisher->on_the_way--;
	lane->shadows -= !publication->done;
}

void lane_free(struct publisher *publisher, struct lane *lane)
{
	assert(!lane->on_the_way);
	DL_DELETE(publisher->lanes, lane);
	free(lane);
}

/* false: it is not to be waited for any longer. */
static bool is_early(struct publisher *publisher, const struct publication *publication, int64_t now_ms)
{
	if (publication->job.deadline_ms <= now_ms)
		return false;
	if (publication->job.deadline_ms < publisher->earliest_ms)
		publisher->earliest_ms = publication->job.deadline_ms;
	return true;
}

static void lane_expire(struct publisher *publisher, struct lane *lane, int64_t now_ms)
{
	struct publication *publication, *tmp;

	HASH_ITER(hh, lane->on_the_way, publication, tmp)
	{
		mqfs_done_fn *done = publication->done;

		if (!done || is_early(publisher, publication, now_ms))
			continue;
		/* The others must not wait for its ack. */
		clear(publication);
		lane->shadows++;
		publication->done = NULL;
		publication->message = mqfs_message_free(publication->message);
		done(publication->arg, -ETIMEDOUT, "the broker did not confirm it in time");
	}
}

static void bound_shadows(struct publisher *publisher)
{
	unsigned shadows = 0;
	struct lane *lane;

	DL_FOREACH(publisher->lanes, lane)
	{
		shadows += lane->shadows;
	}
	if (shadows >= PUBLISHER_WINDOW / 2)
		connection_fail(publisher->connection, "the broker does not confirm what it is sent");
}

/* Answers what is late, and looks for the next deadline. */
void publisher_expire(struct publisher *publisher, int64_t now_ms)
{
	struct publication *publication, *tmp;
	struct lane *lane;

	publisher->earliest_ms = MQFS_NEVER;
	DL_FOREACH(publisher->lanes, lane)
	{
		lane_expire(publisher, lane, now_ms);
	}
	DL_FOREACH_SAFE(publisher->waiting, publication, tmp)
	{
		if (is_early(publisher, publication, now_ms))
			continue;
		DL_DELETE(publisher->waiting, publication);
		publication_end(publication, -ENOSPC, full);
	}
	bound_shadows(publisher);
}

void publication_routing_key(const struct publication *publication, mqfs_name_t ret_name)
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

/* ---- what the broker says ---- */

static void on_ack(struct publisher *publisher, struct lane *lane, uint64_t tag, bool positive)
{
	struct publication *publication;

	HASH_FIND(hh, lane->on_the_way, &tag, sizeof(tag), publication);
	if (!publication) {
		log_debug("a confirm for what is not on the way");
		return;
	}
	lane_remove(publisher, lane, publication);
	FAILPOINT(amqp_publish_confirmed);
	if (positive)
		publication_settle(publication, 0);
	else
		publication_nacked(publication, lane);
}

static void on_acked(void *arg, amqp_channel_t channel, uint64_t tag, bool multiple, bool positive)
{
	struct publisher *publisher = arg;
	struct lane *lane = lane_find(publisher, channel);

	if (!lane)
		return;
	publisher->reopen |= !positive && lane == publisher->lanes;
	if (!multiple) {
		on_ack(publisher, lane, tag, positive);
		return;
	}
	/* The hash is in order of its additions, which is that of the tags. Completions don't come back in here. */
	while (lane->on_the_way && (tag == 0 || lane->on_the_way->tag <= tag))
		on_ack(publisher, lane, lane->on_the_way->tag, positive);
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
	publication_routing_key(publication, key);
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
	/* An older one is not to be sent in again: it may be talking to a former leader. */
	publisher->reopen |= lane == publisher->lanes && lane->next;
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

const struct frame_events publisher_events = {
    .content = on_return,
    .acked = on_acked,
    .channel_closed = on_channel_closed,
    .blocked = on_blocked,
};
