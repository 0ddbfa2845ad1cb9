/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>
#define LOG_TOPIC "outbox"
#include <mqfs/log.h>

#include "flight.h"

/*
 * Sending: each line with something in it has a flight as long as the broker takes messages. A flight marks the oldest
 * as in flight, publishes them in their order, writes what becomes of them, and goes on with the next.
 *
 * A line of which nothing is known sends one message first, and so does one whose messages were not taken: a broker
 * that is silent gets one at a time. And while the broker is known to be away, nothing is even tried, so that the disk
 * has rest.
 *
 * Those of one window are handed over at once and sent in that order. If the connection ends in between, the broker may
 * have confirmed one and not an earlier one, which is then sent again: the order of what was first received is kept,
 * duplicates come late.
 */

enum {
	AWAY_MS = 250,     /* how soon the broker's return is noticed */
	RETRY_MS = 500,    /* after a failure of the broker's */
	OTHER_MS = 500,    /* another mount sends this line */
	TROUBLE_MS = 1000, /* after a failure of the disk's */
	TAKE_DEADLINE_MS = 5000,
};

static void flight_free(struct flight *flight)
{
	slots_free(flight->slots, flight->count);
	slots_free(flight->next, flight->next_count);
	pthread_mutex_destroy(&flight->lock);
	free(flight);
}

static void flight_done(struct mqfs_state *state, struct state_job *job);

static void flight_work(struct flight *flight, enum flight_work work, int64_t deadline_ms)
{
	flight->busy = true;
	flight->work = work;
	flight->job.deadline_ms = deadline_ms;
	flight->job.run = flight_run;
	flight->job.done = flight_done;
	outbox_submit(flight->outbox, &flight->job);
}

/* ---- the beginning and the end ---- */

static bool is_closing(struct mqfs_outbox *outbox)
{
	bool closing;

	pthread_mutex_lock(&outbox->lock);
	closing = outbox->closing;
	pthread_mutex_unlock(&outbox->lock);
	return closing;
}

static void flight_begin(struct mqfs_outbox *outbox, struct line *line, int64_t now_ms)
{
	struct flight *flight = calloc(1, sizeof(*flight));

	line->retry_ms = now_ms + TROUBLE_MS;
	if (!flight)
		return;
	flight->outbox = outbox;
	flight->line = line;
	flight->line_id = line->id;
	pthread_mutex_init(&flight->lock, NULL);
	line->flight = flight;
	pthread_mutex_lock(&outbox->lock);
	outbox->flights++;
	pthread_mutex_unlock(&outbox->lock);
	flight_work(flight, FLIGHT_TAKE, now_ms + TAKE_DEADLINE_MS);
}

/* What is still on the way will free it. */
static void flight_end(struct flight *flight, int64_t retry_ms)
{
	struct mqfs_outbox *outbox = flight->outbox;
	bool alone;

	flight->line->flight = NULL;
	flight->line->retry_ms = mqfs_clock_monotonic_ms() + retry_ms;
	pthread_mutex_lock(&outbox->lock);
	outbox->flights--;
	pthread_cond_broadcast(&outbox->changed);
	pthread_mutex_unlock(&outbox->lock);
	pthread_mutex_lock(&flight->lock);
	flight->outbox = NULL;
	alone = flight->on_the_way == 0;
	pthread_mutex_unlock(&flight->lock);
	if (alone)
		flight_free(flight);
}

/* ---- publishing ---- */

/* On a thread of the backend's. */
static void slot_done(void *arg, int result, const char *reason)
{
	struct slot *slot = arg;
	struct flight *flight = slot->flight;
	bool last;

	if (result == 0)
		FAILPOINT(outbox_sent);
	else if (flight_is_refusal(result))
		FAILPOINT(outbox_refused);
	pthread_mutex_lock(&flight->lock);
	slot->result = result;
	slot->reason = reason && result < 0 ? strdup(reason) : NULL;
	slot->finished = true;
	last = --flight->on_the_way == 0 && !flight->outbox;
	if (flight->outbox)
		state_poke(flight->outbox->state);
	pthread_mutex_unlock(&flight->lock);
	if (last)
		flight_free(flight);
}

/* Milliseconds until it is due, rounded up: not before. A clock that was set back since it was accepted does not make
 * it wait any longer than it was to wait then. */
static int64_t delay_left(const struct slot *slot)
{
	int64_t from_us = mqfs_headers_integer(&slot->message->headers, "mqfs-published", 0);
	int64_t now_us = mqfs_clock_realtime_us();

	if (from_us < now_us)
		from_us = now_us;
	return slot->due_us > from_us ? (slot->due_us - from_us - 1) / 1000 + 1 : 0;
}

static void publish(struct mqfs_outbox *outbox, const char *queue, struct slot *slot)
{
	int64_t delay_ms = delay_left(slot);
	struct mqfs_message *message = slot->message;

	slot->message = NULL;
	mqfs_publish(outbox->backend, queue, delay_ms > 0 ? MQFS_PLACE_RETRY : MQFS_PLACE_READY, delay_ms, message,
	             mqfs_clock_monotonic_ms() + outbox->limits.publish_timeout_ms, slot_done, slot);
}

static void publish_all(struct flight *flight)
{
	struct mqfs_outbox *outbox = flight->outbox;
	bool closing = is_closing(outbox);
	size_t count = flight->count;

	log_debug("%s: %zu messages of the outbox", flight->line->queue, count);
	pthread_mutex_lock(&flight->lock);
	flight->on_the_way = count;
	pthread_mutex_unlock(&flight->lock);
	/* The flight stays as long as its job has not seen the end of all of it. */
	for (size_t i = 0; i < count; i++) {
		/* The commit may have waited for the disk, or the machine slept, past the lease. */
		bool over = mqfs_clock_boottime_ms() >= flight->lease_until_ms;

		if (closing || over)
			slot_done(&flight->slots[i], closing ? -ESHUTDOWN : -ETIMEDOUT, NULL);
		else
			publish(outbox, flight->line->queue, &flight->slots[i]);
	}
}

/* ---- what the jobs have done ---- */

static void line_taken(struct flight *flight)
{
	flight->generation = flight->taken;
	flight->lease_until_ms = flight->until_ms;
}

static void taken(struct flight *flight)
{
	struct mqfs_outbox *outbox = flight->outbox;
	int result = flight->job.result;

	if (result == 0) {
		FAILPOINT(outbox_marked);
		line_taken(flight);
		publish_all(flight);
		return;
	}
	/* Nothing is there, though there should be; or it was damaged and is kept now. */
	if (result == -ENOENT) {
		watch_refused(outbox, flight->damaged);
		outbox->dirty = true;
	}
	flight_end(flight, result == -EBUSY ? OTHER_MS : result == -ENOENT && flight->damaged ? 0 : TROUBLE_MS);
}

static void settled(struct flight *flight)
{
	struct mqfs_outbox *outbox = flight->outbox;
	bool well;

	if (flight->job.result < 0) {
		for (size_t i = 0; i < flight->count; i++)
			flight->slots[i].settling = false;
		flight->retry_ms = mqfs_clock_monotonic_ms() + TROUBLE_MS;
		return;
	}
	FAILPOINT(outbox_settled);
	outbox->dirty = true;
	for (size_t i = 0; i < flight->count; i++) {
		struct slot *slot = &flight->slots[i];

		if (!slot->settling)
			continue;
		slot->settling = false;
		slot->settled = true;
		if (slot->refused)
			watch_refused(outbox, slot->id);
	}
	if (flight->next_count == 0 && !flight->ended)
		return;
	flight_is_over(flight, &well);
	flight->line->probing = !well;
	if (flight->ended) {
		flight_end(flight, well ? 0 : RETRY_MS);
		return;
	}
	slots_free(flight->slots, flight->count);
	flight->slots = flight->next;
	flight->count = flight->next_count;
	flight->next = NULL;
	flight->next_count = 0;
	line_taken(flight);
	publish_all(flight);
}

static void renewed(struct flight *flight)
{
	if (flight->job.result < 0) {
		flight->renew_ms = mqfs_clock_monotonic_ms() + TROUBLE_MS;
		return;
	}
	flight->lease_until_ms = flight->until_ms;
	if (flight->until_ms == 0)
		flight->renew_ms = MQFS_NEVER;
}

/* Whatever was being done when the outbox was closed. */
static void let_go(struct flight *flight)
{
	bool took = flight->work == FLIGHT_TAKE || (flight->work == FLIGHT_SETTLE && flight->next_count > 0);

	if (took && flight->job.result == 0)
		line_taken(flight);
	flight_work(flight, FLIGHT_RELEASE, MQFS_NEVER);
}

static void flight_done(struct mqfs_state *state, struct state_job *job)
{
	struct flight *flight = (struct flight *)job;
	struct mqfs_outbox *outbox = flight->outbox;

	(void)state;
	flight->busy = false;
	if (flight->work == FLIGHT_RELEASE)
		flight_end(flight, 0);
	else if (flight->letting_go)
		let_go(flight);
	else if (flight->work == FLIGHT_TAKE)
		taken(flight);
	else if (flight->work == FLIGHT_SETTLE)
		settled(flight);
	else
		renewed(flight);
	outbox_job_ended(outbox);
}

/* ---- the tick ---- */

/* Marks what has become finished; true when there is something. */
static bool collect_finished(struct flight *flight)
{
	bool any = false;

	pthread_mutex_lock(&flight->lock);
	for (size_t i = 0; i < flight->count; i++) {
		struct slot *slot = &flight->slots[i];

		slot->settling = slot->finished && !slot->settled;
		any |= slot->settling;
	}
	pthread_mutex_unlock(&flight->lock);
	return any;
}

static int64_t flight_tick(struct flight *flight, bool closing, int64_t now_ms)
{
	if (flight->busy)
		return MQFS_NEVER; /* its end makes another tick */
	/* First, so that the line stays ours while what became of it can't be written. */
	if (now_ms >= flight->renew_ms) {
		flight_work(flight, FLIGHT_RENEW, now_ms + TAKE_DEADLINE_MS);
		return MQFS_NEVER;
	}
	if (now_ms >= flight->retry_ms && collect_finished(flight)) {
		flight->go_on = !closing;
		flight_work(flight, FLIGHT_SETTLE, MQFS_NEVER);
		return MQFS_NEVER;
	}
	return now_ms < flight->retry_ms && flight->retry_ms < flight->renew_ms ? flight->retry_ms : flight->renew_ms;
}

static bool is_away(struct mqfs_outbox *outbox)
{
	struct mqfs_backend_status status;

	mqfs_backend_status(outbox->backend, &status);
	return !status.connected;
}

int64_t sender_tick(struct mqfs_outbox *outbox, int64_t now_ms)
{
	bool closing = is_closing(outbox);
	int64_t next_ms = MQFS_NEVER;
	int away = -1; /* not known */

	for (struct line *line = outbox->lines_by_id; line; line = line->by_id.next) {
		int64_t at_ms = MQFS_NEVER;

		if (line->flight) {
			at_ms = flight_tick(line->flight, closing, now_ms);
		} else if (line->depth.messages == 0) {
			line->probing = true;
		} else if (closing) {
			continue;
		} else if (now_ms < line->retry_ms) {
			at_ms = line->retry_ms;
		} else if (away == 1 || (away < 0 && (away = is_away(outbox)) == 1)) {
			at_ms = now_ms + AWAY_MS;
		} else {
			flight_begin(outbox, line, now_ms);
		}
		if (at_ms < next_ms)
			next_ms = at_ms;
	}
	return next_ms;
}

void sender_let_go(struct mqfs_outbox *outbox)
{
	for (struct line *line = outbox->lines_by_id; line; line = line->by_id.next) {
		struct flight *flight = line->flight;

		if (!flight)
			continue;
		flight->letting_go = true;
		if (!flight->busy)
			flight_work(flight, FLIGHT_RELEASE, MQFS_NEVER);
	}
}

bool sender_has(struct mqfs_outbox *outbox, int64_t line_id, int64_t id)
{
	struct line *line;

	HASH_FIND(by_id, outbox->lines_by_id, &line_id, sizeof(line_id), line);
	if (!line || !line->flight)
		return false;
	for (size_t i = 0; i < line->flight->count; i++)
		if (line->flight->slots[i].id == id && !line->flight->slots[i].settled)
			return true;
	return false;
}
