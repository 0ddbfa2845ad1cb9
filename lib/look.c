/* SPDX-License-Identifier: MIT */
#include "look_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/meta.h>

/* The look's life, and what fs/ reads from its listing. look_internal.h tells how it works. */

/* Where a freed look counts, while completions are outstanding. */
static struct mqfs_counters nobodys;

struct mqfs_look *mqfs_look_new(struct mqfs_backend *backend, const char *queue, enum mqfs_place place,
                                const struct mqfs_settings *settings, struct mqfs_counters *counters)
{
	struct mqfs_look *look = calloc(1, sizeof(*look));

	assert(place == MQFS_PLACE_RETRY || place == MQFS_PLACE_DEAD);
	if (!look)
		return NULL;
	look->queue = strdup(queue);
	if (!look->queue) {
		free(look);
		return NULL;
	}
	look->backend = backend;
	look->place = place;
	look->holds = mqfs_backend_looks_hold(backend);
	look->settings = *settings;
	look->counters = counters;
	look->next_due_ms = MQFS_NEVER;
	pthread_mutex_init(&look->lock, NULL);
	atomic_init(&look->references, 1);
	return look;
}

/* (locked) */
static void end(struct mqfs_look *look)
{
	struct look_waiter *waiter, *next_waiter;
	struct look_request *request, *next_request;

	look->closing = true;
	look->wake = NULL;
	look->counters = &nobodys;
	DL_FOREACH_SAFE2(look->waiters, waiter, next_waiter, next)
	{
		look_answer(look, waiter, -ESHUTDOWN);
	}
	DL_FOREACH_SAFE2(look->wanted, request, next_request, next)
	{
		DL_DELETE2(look->wanted, request, previous, next);
		look_finish(request, -ESHUTDOWN, NULL);
	}
	look_put_back(look, mqfs_clock_monotonic_ms());
}

void mqfs_look_end(struct mqfs_look *look)
{
	look_enter(look);
	if (!look->closing)
		end(look);
	look_leave(look);
}

void mqfs_look_free(struct mqfs_look *look)
{
	if (!look)
		return;
	mqfs_look_end(look);
	look_unref(look);
}

void look_ref(struct mqfs_look *look)
{
	atomic_fetch_add_explicit(&look->references, 1, memory_order_relaxed);
}

void look_unref(struct mqfs_look *look)
{
	struct look_item *item, *next;

	if (atomic_fetch_sub_explicit(&look->references, 1, memory_order_acq_rel) != 1)
		return;
	HASH_ITER(hh, look->items, item, next)
	{
		look_unlist(look, item);
	}
	pthread_mutex_destroy(&look->lock);
	free(look->queue);
	free(look);
}

void look_enter(struct mqfs_look *look)
{
	pthread_mutex_lock(&look->lock);
}

static void tell_answered(struct look_waiter *answered)
{
	struct look_waiter *waiter, *next;

	for (waiter = answered; waiter; waiter = next) {
		next = waiter->next;
		waiter->done(waiter->arg, waiter->result, NULL);
		free(waiter);
	}
}

void look_leave(struct mqfs_look *look)
{
	struct look_work work = look->work;
	void (*wake)(void *) = work.wake ? look->wake : NULL;
	void *wake_arg = look->wake_arg;

	look->work = (struct look_work){0};
	look_ref(look); /* a callback may free it */
	pthread_mutex_unlock(&look->lock);

	/* What is put back goes first, so that a browse finds it. */
	look_release_issue(look, work.release);
	look_settle_issue(work.settle);
	if (work.browse > 0)
		look_browse_issue(look, work.browse);
	tell_answered(work.answered);
	look_tell_finished(work.finished);
	if (wake)
		wake(wake_arg);
	look_unref(look);
}

void look_due(struct mqfs_look *look, int64_t due_ms)
{
	if (due_ms >= look->next_due_ms)
		return;
	look->next_due_ms = due_ms;
	look->work.wake = true;
}

void mqfs_look_configure(struct mqfs_look *look, const struct mqfs_settings *settings)
{
	look_enter(look);
	look->settings = *settings;
	look_leave(look);
}

void mqfs_look_on_due(struct mqfs_look *look, void (*wake)(void *arg), void *arg)
{
	look_enter(look);
	look->wake = wake;
	look->wake_arg = arg;
	look_leave(look);
}

void look_answer(struct mqfs_look *look, struct look_waiter *waiter, int result)
{
	DL_DELETE2(look->waiters, waiter, previous, next);
	waiter->result = result;
	DL_APPEND2(look->work.answered, waiter, previous, next);
}

static bool is_fresh(const struct mqfs_look *look, int64_t now_ms)
{
	if (look->phase == LOOK_RESTING || look->closing)
		return true;
	return look->browsed_ms && now_ms < look->browsed_ms + LOOK_SNAPSHOT_MS;
}

/* Waits for the browse that is under way or begins one. false: no need to. */
static bool await_browse(struct mqfs_look *look, mqfs_done_fn *done, void *arg, int64_t now_ms)
{
	struct look_waiter *waiter = malloc(sizeof(*waiter));

	if (!waiter || !look_browse(look)) {
		free(waiter);
		return false;
	}
	*waiter = (struct look_waiter){
	    .done = done, .arg = arg, .patience_ms = now_ms + LOOK_PATIENCE_MS, .deadline_ms = now_ms + LOOK_ANSWER_MS};
	DL_APPEND2(look->waiters, waiter, previous, next);
	look_due(look, waiter->patience_ms);
	return true;
}

void mqfs_look_expire(struct mqfs_look *look)
{
	look_enter(look);
	look->browsed_ms = 0;
	look_leave(look);
}

int mqfs_look_refresh(struct mqfs_look *look, mqfs_done_fn *done, void *arg)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();
	bool waits = false;

	look_enter(look);
	look_due(look, look_age(look, now_ms));
	look->access_ms = now_ms;
	if (!is_fresh(look, now_ms))
		waits = await_browse(look, done, arg, now_ms);
	look_leave(look);
	return waits ? 0 : 1;
}

int64_t mqfs_look_held(struct mqfs_look *look)
{
	look_enter(look);
	int64_t held = (int64_t)look->held_count;
	look_leave(look);
	return held;
}

void mqfs_look_list(struct mqfs_look *look, void (*each)(struct mqfs_delivery *delivery, void *arg), void *arg)
{
	struct look_item *item, *next;

	look_enter(look);
	look->access_ms = mqfs_clock_monotonic_ms();
	HASH_ITER(hh, look->items, item, next)
	{
		each(item->delivery, arg);
	}
	look_leave(look);
}

struct mqfs_delivery *mqfs_look_find(struct mqfs_look *look, const char *name)
{
	struct mqfs_delivery *found = NULL;
	struct look_item *item;

	look_enter(look);
	look->access_ms = mqfs_clock_monotonic_ms();
	HASH_FIND_STR(look->items, name, item);
	if (item)
		found = mqfs_delivery_ref(item->delivery);
	look_leave(look);
	return found;
}

char *mqfs_look_meta(struct mqfs_look *look, struct mqfs_delivery *delivery)
{
	char *json;

	look_enter(look);
	json = mqfs_meta_json(delivery, &look->settings);
	look_leave(look);
	return json;
}

static bool is_silent(const struct mqfs_look *look)
{
	struct mqfs_backend_status status;

	mqfs_backend_status(look->backend, &status);
	return status.silent_ms >= LOOK_SILENT_MS;
}

/* When to answer the waiter, or to ask again whether it is time: a broker that is only slow is waited for longer. */
static int64_t answer_ms(const struct mqfs_look *look, const struct look_waiter *waiter, int64_t now_ms)
{
	if (waiter->patience_ms > now_ms)
		return waiter->patience_ms;
	return is_silent(look) ? now_ms : mqfs_clock_earlier(waiter->deadline_ms, now_ms + LOOK_ASK_MS);
}

static int64_t end_waits(struct mqfs_look *look, int64_t now_ms)
{
	struct look_waiter *waiter, *next_waiter;
	struct look_request *request, *next_request;
	int64_t due_ms = MQFS_NEVER;

	DL_FOREACH_SAFE2(look->waiters, waiter, next_waiter, next)
	{
		int64_t waiter_ms = answer_ms(look, waiter, now_ms);

		if (waiter_ms > now_ms)
			due_ms = mqfs_clock_earlier(due_ms, waiter_ms);
		else
			look_answer(look, waiter, -ETIMEDOUT);
	}
	DL_FOREACH_SAFE2(look->wanted, request, next_request, next)
	{
		if (request->deadline_ms > now_ms) {
			due_ms = mqfs_clock_earlier(due_ms, request->deadline_ms);
			continue;
		}
		DL_DELETE2(look->wanted, request, previous, next);
		look_finish(request, -ETIMEDOUT, NULL);
	}
	return due_ms;
}

int64_t mqfs_look_tick(struct mqfs_look *look, int64_t now_ms)
{
	int64_t due_ms;

	look_enter(look);
	due_ms = mqfs_clock_earlier(end_waits(look, now_ms), look_age(look, now_ms));
	look->next_due_ms = due_ms;
	look->work.wake = false; /* the caller takes the answer */
	look_leave(look);
	return due_ms;
}
