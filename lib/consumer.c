/* SPDX-License-Identifier: MIT */
#include "consumer_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mqfs/failure.h>
#include <mqfs/meta.h>

/* The consumer's life, and what fs/ asks of its window. consumer_internal.h tells how it works. */

/* Where a freed consumer counts, while completions are outstanding. */
static struct mqfs_counters nobodys;

struct mqfs_consumer *mqfs_consumer_new(struct mqfs_backend *backend, const char *queue,
                                        const struct mqfs_settings *settings, struct mqfs_counters *counters,
                                        struct mqfs_records *records)
{
	struct mqfs_consumer *consumer = calloc(1, sizeof(*consumer));

	if (!consumer)
		return NULL;
	consumer->queue = strdup(queue);
	if (!consumer->queue) {
		free(consumer);
		return NULL;
	}
	consumer->backend = backend;
	consumer->patient = backend->ops->patient;
	consumer->counters = counters;
	consumer->records = records;
	consumer->wary = CONSUMER_WARY;
	consumer->settings = *settings;
	consumer->next_due_ms = MQFS_NEVER;
	gethostname(consumer->host, sizeof(consumer->host) - 1);
	pthread_mutex_init(&consumer->lock, NULL);
	atomic_init(&consumer->references, 1);
	return consumer;
}

/* (locked) */
static void end(struct mqfs_consumer *consumer)
{
	consumer->closing = true;
	consumer->wanted = false;
	consumer->counters = &nobodys;
	consumer->notify = NULL;
	consumer->wake = NULL;
	consumer_fail_waiters(consumer, -ESHUTDOWN);
	consumer_abandon(consumer);
	/* While it consumes, what is given back would come again at once: the cancel's completion gives it back. */
	if (consumer->mode == CONSUMER_OFF)
		consumer_give_back(consumer);
}

void mqfs_consumer_end(struct mqfs_consumer *consumer)
{
	consumer_enter(consumer);
	if (!consumer->closing)
		end(consumer);
	consumer_leave(consumer);
}

void mqfs_consumer_free(struct mqfs_consumer *consumer)
{
	if (!consumer)
		return;
	mqfs_consumer_end(consumer);
	consumer_unref(consumer);
}

void mqfs_consumer_stop(struct mqfs_consumer *consumer, mqfs_done_fn *done, void *arg)
{
	struct consumer_stop *stop = malloc(sizeof(*stop));

	if (!stop) {
		done(arg, -ENOMEM, NULL);
		return;
	}
	*stop = (struct consumer_stop){.done = done, .arg = arg};
	consumer_enter(consumer);
	consumer->wanted = false;
	LL_PREPEND(consumer->stops, stop);
	if (consumer->mode == CONSUMER_OFF)
		consumer_give_back(consumer);
	consumer_leave(consumer);
}

void mqfs_consumer_resume(struct mqfs_consumer *consumer)
{
	consumer_enter(consumer);
	if (consumer->claims)
		consumer_want(consumer, mqfs_clock_monotonic_ms());
	consumer_leave(consumer);
}

void mqfs_consumer_gone(struct mqfs_consumer *consumer)
{
	consumer_enter(consumer);
	consumer_fail_waiters(consumer, -ENOENT);
	consumer_leave(consumer);
}

void mqfs_consumer_drain(struct mqfs_consumer *consumer)
{
	consumer_enter(consumer);
	consumer->draining = true;
	consumer->wanted = false;
	consumer_fail_waiters(consumer, -ESHUTDOWN);
	if (consumer->mode == CONSUMER_OFF)
		consumer_give_back(consumer);
	consumer_leave(consumer);
}

void mqfs_consumer_configure(struct mqfs_consumer *consumer, const struct mqfs_settings *settings)
{
	consumer_enter(consumer);
	consumer->settings = *settings;
	consumer_due(consumer, mqfs_clock_monotonic_ms()); /* the time-outs may be shorter now */
	consumer_leave(consumer);
}

void mqfs_consumer_on_pending(struct mqfs_consumer *consumer, void (*notify)(void *arg), void *arg)
{
	consumer_enter(consumer);
	consumer->notify = notify;
	consumer->notify_arg = arg;
	consumer_leave(consumer);
}

void mqfs_consumer_on_due(struct mqfs_consumer *consumer, void (*wake)(void *arg), void *arg)
{
	consumer_enter(consumer);
	consumer->wake = wake;
	consumer->wake_arg = arg;
	consumer_leave(consumer);
}

void mqfs_consumer_touch(struct mqfs_consumer *consumer)
{
	consumer_enter(consumer);
	consumer_want(consumer, mqfs_clock_monotonic_ms());
	consumer_leave(consumer);
}

bool mqfs_consumer_has_pending(struct mqfs_consumer *consumer)
{
	bool pending;

	consumer_enter(consumer);
	pending = consumer->pending;
	consumer_leave(consumer);
	return pending;
}

static void list(struct mqfs_consumer *consumer, enum mqfs_delivery_state state,
                 void (*each)(struct mqfs_delivery *delivery, void *arg), void *arg)
{
	struct held *held, *next;

	HASH_ITER(hh, consumer->window, held, next)
	{
		if (held->delivery->state == state)
			each(held->delivery, arg);
	}
}

void mqfs_consumer_list(struct mqfs_consumer *consumer, enum mqfs_delivery_state state,
                        void (*each)(struct mqfs_delivery *delivery, void *arg), void *arg)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();

	consumer_enter(consumer);
	if (state == MQFS_DELIVERY_PENDING)
		consumer_want(consumer, now_ms);
	else
		consumer_touched(consumer, now_ms); /* C1: looking at claimed/ alone takes nothing from others */
	list(consumer, state, each, arg);
	consumer_leave(consumer);
}

void mqfs_consumer_peek(struct mqfs_consumer *consumer, enum mqfs_delivery_state state,
                        void (*each)(struct mqfs_delivery *delivery, void *arg), void *arg)
{
	consumer_enter(consumer);
	list(consumer, state, each, arg);
	consumer_leave(consumer);
}

static bool is_listed(const struct held *held)
{
	return held &&
	       (held->delivery->state == MQFS_DELIVERY_PENDING || held->delivery->state == MQFS_DELIVERY_CLAIMED);
}

struct mqfs_delivery *mqfs_consumer_find(struct mqfs_consumer *consumer, const char *name,
                                         enum mqfs_delivery_state *ret_state)
{
	struct mqfs_delivery *found = NULL;
	struct held *held;

	consumer_enter(consumer);
	consumer_touched(consumer, mqfs_clock_monotonic_ms());
	HASH_FIND_STR(consumer->window, name, held);
	if (is_listed(held)) {
		found = mqfs_delivery_ref(held->delivery);
		if (ret_state)
			*ret_state = held->delivery->state;
	}
	consumer_leave(consumer);
	return found;
}

enum mqfs_delivery_state mqfs_consumer_state(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery)
{
	enum mqfs_delivery_state state;

	consumer_enter(consumer);
	state = delivery->state;
	consumer_leave(consumer);
	return state;
}

void mqfs_consumer_with(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery,
                        void (*fn)(struct mqfs_delivery *delivery, void *arg), void *arg)
{
	consumer_enter(consumer);
	fn(delivery, arg);
	consumer_leave(consumer);
}

int mqfs_consumer_take(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, const char *claimed_by,
                       void *owner, void (*owner_free)(void *owner))
{
	struct held *held;
	int result = 0;

	consumer_enter(consumer);
	consumer_touched(consumer, mqfs_clock_monotonic_ms());
	held = consumer_held(consumer, delivery);
	if (!is_listed(held)) {
		result = -ENOENT;
	} else if (delivery->state != MQFS_DELIVERY_PENDING) {
		result = -EBUSY;
	} else if (consumer->draining) {
		result = -ESHUTDOWN;
	} else {
		consumer_take(held, claimed_by);
		delivery->owner = owner;
		delivery->owner_free = owner_free;
	}
	consumer_leave(consumer);
	return result;
}

void mqfs_consumer_set_owner(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, void *owner,
                             void (*owner_free)(void *owner))
{
	bool unused;

	consumer_enter(consumer);
	unused = delivery->owner || delivery->state != MQFS_DELIVERY_CLAIMED;
	if (!unused) {
		delivery->owner = owner;
		delivery->owner_free = owner_free;
	}
	consumer_leave(consumer);
	if (unused && owner_free)
		owner_free(owner);
}

int mqfs_consumer_extend(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery)
{
	int64_t now_ms = mqfs_clock_monotonic_ms(), end_ms, limit_ms;
	struct held *held;
	int result = 0;

	consumer_enter(consumer);
	consumer_touched(consumer, now_ms);
	held = consumer_held(consumer, delivery);
	if (!is_listed(held)) {
		result = -ENOENT;
	} else if (delivery->state != MQFS_DELIVERY_CLAIMED) {
		result = -EPERM;
	} else {
		end_ms = now_ms + consumer->settings.claim_timeout_ms;
		limit_ms = consumer_limit_ms(held);
		if (end_ms > limit_ms && delivery->expires_ms >= limit_ms)
			result = -ETIME;
		else
			delivery->expires_ms = end_ms < limit_ms ? end_ms : limit_ms;
		consumer_due(consumer, delivery->expires_ms);
	}
	consumer_leave(consumer);
	return result;
}

/* The end of a text, as a string; NUL bytes become spaces. */
static char *tail(const char *text, size_t bytes)
{
	size_t skip = bytes > MQFS_REASON_MAX ? bytes - MQFS_REASON_MAX : 0;
	char *copy = malloc(bytes - skip + 1);

	if (!copy)
		return NULL;
	memcpy(copy, text + skip, bytes - skip);
	copy[bytes - skip] = '\0';
	for (size_t i = 0; i < bytes - skip; i++)
		if (copy[i] == '\0')
			copy[i] = ' ';
	return copy;
}

int mqfs_consumer_set_error(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery, const void *text,
                            size_t bytes)
{
	char *copy = NULL;
	struct held *held;
	int result = 0;

	if (bytes > 0) {
		copy = tail(text, bytes);
		if (!copy)
			return -ENOMEM;
	}
	consumer_enter(consumer);
	consumer_touched(consumer, mqfs_clock_monotonic_ms());
	held = consumer_held(consumer, delivery);
	if (is_listed(held)) {
		consumer_set_cause(held, copy);
		copy = NULL;
	} else {
		result = -ENOENT;
	}
	consumer_leave(consumer);
	free(copy);
	return result;
}

char *mqfs_consumer_meta(struct mqfs_consumer *consumer, struct mqfs_delivery *delivery)
{
	char *json;

	consumer_enter(consumer);
	json = mqfs_meta_json(delivery, &consumer->settings);
	consumer_leave(consumer);
	return json;
}

static int64_t oldest_pending_ms(const struct mqfs_consumer *consumer)
{
	int64_t oldest_ms = MQFS_NEVER;
	const struct held *held;

	DL_FOREACH2(consumer->pending, held, next)
	{
		if (held->delivered_ms < oldest_ms)
			oldest_ms = held->delivered_ms;
	}
	return oldest_ms == MQFS_NEVER ? 0 : mqfs_clock_monotonic_ms() - oldest_ms;
}

void mqfs_consumer_state_of(struct mqfs_consumer *consumer, struct mqfs_consumer_state *ret_state)
{
	consumer_enter(consumer);
	*ret_state = (struct mqfs_consumer_state){
	    .consuming = consumer->mode == CONSUMER_ON && consumer->wanted,
	    .pending = consumer->counts[MQFS_DELIVERY_PENDING],
	    .claimed = consumer->counts[MQFS_DELIVERY_CLAIMED],
	    .settling = consumer->in_flight_count,
	    .oldest_pending_ms = oldest_pending_ms(consumer),
	    .prepared = consumer->prepared,
	};
	consumer_leave(consumer);
}
