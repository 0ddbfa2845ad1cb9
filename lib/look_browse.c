/* SPDX-License-Identifier: MIT */
#include "look_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/failpoint.h>

#define LOG_TOPIC "look"
#include <mqfs/log.h>

/* Browsing, holding and putting back. */

void look_unlist(struct mqfs_look *look, struct look_item *item)
{
	if (item->held)
		look->held_count--;
	HASH_DELETE(hh, look->items, item);
	mqfs_delivery_unref(item->delivery);
	free(item);
}

static void note_release(struct mqfs_look *look, struct mqfs_delivery *delivery)
{
	mqfs_delivery_ref(delivery);
	LL_PREPEND(look->work.release, delivery);
}

void look_release(struct mqfs_look *look, struct look_item *item)
{
	if (!item->held)
		return;
	item->held = false;
	look->held_count--;
	note_release(look, item->delivery);
}

static void released(void *arg, int result, const char *reason)
{
	(void)arg;
	/* Those whose connection went are back without our help. */
	if (result < 0 && result != -ESTALE && result != -EHOSTDOWN && result != -ESHUTDOWN)
		log_warning("a message that was looked at is held until the connection ends: %s",
		            reason ? reason : strerror(-result));
}

void look_release_issue(struct mqfs_look *look, struct mqfs_delivery *release)
{
	static const struct mqfs_disposition disposition = {.verb = MQFS_VERB_RELEASE};
	struct mqfs_delivery *next;

	for (; release; release = next) {
		next = release->next;
		mqfs_settle(look->backend, release, &disposition, mqfs_clock_monotonic_ms() + LOOK_UNUSED_MS, released,
		            NULL);
		mqfs_delivery_unref(release);
	}
}

void look_put_back(struct mqfs_look *look, int64_t now_ms)
{
	struct look_item *item, *next;
	bool resting = look->phase == LOOK_HOLDING && look->held_count > 0;

	HASH_ITER(hh, look->items, item, next)
	{
		if (!item->busy)
			look_release(look, item);
	}
	look->phase = resting ? LOOK_RESTING : LOOK_IDLE;
	look->rest_ms = now_ms + (now_ms - look->since_ms);
}

/* A message in retry/ goes home at its time, looked at or not; then it is no longer listed. */
static int64_t forget_returned(struct mqfs_look *look, int64_t now_ms)
{
	int64_t now_us = mqfs_clock_realtime_us(), due_ms = MQFS_NEVER;
	struct look_item *item, *next;

	HASH_ITER(hh, look->items, item, next)
	{
		int64_t left_us = item->delivery->next_at_us - now_us;

		if (item->delivery->next_at_us == 0 || item->busy)
			continue;
		if (left_us <= 0) {
			look_release(look, item);
			look_unlist(look, item);
		} else if (now_ms + left_us / 1000 + 1 < due_ms) {
			due_ms = now_ms + left_us / 1000 + 1;
		}
	}
	return due_ms;
}

static int64_t hold_end_ms(const struct mqfs_look *look)
{
	int64_t unused_ms = look->access_ms + LOOK_UNUSED_MS, all_ms = look->since_ms + look->hold_ms;

	return unused_ms < all_ms ? unused_ms : all_ms;
}

int64_t look_age(struct mqfs_look *look, int64_t now_ms)
{
	int64_t due_ms = look->place == MQFS_PLACE_RETRY ? forget_returned(look, now_ms) : MQFS_NEVER;
	int64_t phase_ms = MQFS_NEVER;

	if (look->phase == LOOK_HOLDING && !look->browsing && now_ms >= hold_end_ms(look))
		look_put_back(look, now_ms);
	if (look->phase == LOOK_RESTING && now_ms >= look->rest_ms)
		look->phase = LOOK_IDLE;
	if (look->phase == LOOK_HOLDING && !look->browsing)
		phase_ms = hold_end_ms(look);
	else if (look->phase == LOOK_RESTING)
		phase_ms = look->rest_ms;
	return due_ms < phase_ms ? due_ms : phase_ms;
}

bool look_browse(struct mqfs_look *look)
{
	size_t limit = (size_t)look->settings.look_max;

	if (look->browsing)
		return true;
	if (look->holds && look->held_count >= limit)
		return false;
	look->browsing = true;
	look->work.browse = limit - (look->holds ? look->held_count : 0);
	look_ref(look);
	return true;
}

/* Makes room for a new listing. What is held stays in it. */
static void clear_old(struct mqfs_look *look)
{
	struct look_item *item, *next;

	HASH_ITER(hh, look->items, item, next)
	{
		item->twins = 0;
		if (!look->holds || !item->held)
			look_unlist(look, item);
	}
}

/* A new generation says that the connection was lost, and with it all that was held. */
static void drop_stale(struct mqfs_look *look, struct mqfs_delivery **deliveries, size_t count)
{
	uint64_t generation = 0;
	struct look_item *item, *next;

	for (size_t i = 0; i < count; i++)
		if (deliveries[i]->generation > generation)
			generation = deliveries[i]->generation;
	HASH_ITER(hh, look->items, item, next)
	{
		if (item->held && !item->busy && item->delivery->generation < generation)
			look_unlist(look, item);
	}
}

/* Its own name, or with "~2", "~3", … behind it when that is taken. Many may have one name: those before are skipped.
 */
static void name_item(struct mqfs_look *look, struct mqfs_delivery *delivery)
{
	struct look_item *first, *twin;
	size_t length;

	mqfs_name_kept_message(delivery->message, delivery->name);
	length = strlen(delivery->name);
	HASH_FIND_STR(look->items, delivery->name, first);
	if (!first)
		return;
	if (first->twins == 0)
		first->twins = 1;
	do {
		snprintf(delivery->name + length, sizeof(delivery->name) - length, "~%u", ++first->twins);
		HASH_FIND_STR(look->items, delivery->name, twin);
	} while (twin);
}

/* Takes the reference over. */
static void list_item(struct mqfs_look *look, struct mqfs_delivery *delivery)
{
	struct look_item *item = calloc(1, sizeof(*item));

	if (item) {
		item->delivery = delivery;
		delivery->state = MQFS_DELIVERY_PENDING;
		name_item(look, delivery);
		HASH_ADD_KEYPTR(hh, look->items, delivery->name, strlen(delivery->name), item);
	}
	if (!item || !item->hh.tbl || look->closing) {
		if (item && item->hh.tbl)
			HASH_DELETE(hh, look->items, item);
		if (look->holds)
			note_release(look, delivery);
		mqfs_delivery_unref(delivery);
		free(item);
		return;
	}
	item->held = look->holds;
	look->held_count += item->held;
}

static int by_name(const struct look_item *a, const struct look_item *b)
{
	return strcmp(a->delivery->name, b->delivery->name);
}

static void install(struct mqfs_look *look, struct mqfs_delivery **deliveries, size_t count, int64_t now_ms)
{
	drop_stale(look, deliveries, count);
	clear_old(look);
	for (size_t i = 0; i < count; i++)
		list_item(look, deliveries[i]);
	HASH_SORT(look->items, by_name);
	FAILPOINT(look_listed);
	look->browsed_ms = now_ms;
	if (look->held_count == 0 || look->phase == LOOK_HOLDING)
		return;
	look->hold_ms = look->phase == LOOK_RESTING ? LOOK_HOLD_AGAIN_MS : LOOK_HOLD_MS;
	look->phase = LOOK_HOLDING;
	look->since_ms = now_ms;
}

static void browsed(void *arg, int result, struct mqfs_delivery **deliveries, size_t count)
{
	struct mqfs_look *look = arg;
	int64_t now_ms = mqfs_clock_monotonic_ms();
	struct look_waiter *waiter, *next;

	look_enter(look);
	look->browsing = false;
	if (result == 0)
		install(look, deliveries, count, now_ms);
	DL_FOREACH_SAFE2(look->waiters, waiter, next, next)
	{
		look_answer(look, waiter, result);
	}
	look_serve_wanted(look, result);
	look_due(look, look_age(look, now_ms));
	look_leave(look);
	look_unref(look);
}

void look_browse_issue(struct mqfs_look *look, size_t limit)
{
	mqfs_browse(look->backend, look->queue, look->place, limit, mqfs_clock_monotonic_ms() + LOOK_ANSWER_MS * 9 / 10,
	            browsed, look);
}
