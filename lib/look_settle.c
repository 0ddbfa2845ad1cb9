/* SPDX-License-Identifier: MIT */
#include "look_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mqfs/failpoint.h>
#include <mqfs/failure.h>
#include <mqfs/retry.h>

/*
 * Settling what is looked at. A request names a delivery that its caller found, perhaps in an earlier
 * listing. Where looks hold, that one may have been put back since; then the same message is looked
 * for again, and what is found is settled.
 */

static void request_free(struct look_request *request)
{
	mqfs_delivery_unref(request->delivery);
	free(request->queue);
	free(request);
}

void look_finish(struct look_request *request, int result, const char *reason)
{
	request->result = request->moved || result > 0 ? 0 : result;
	request->reason = reason;
	DL_APPEND2(request->look->work.finished, request, previous, next);
}

void look_tell_finished(struct look_request *finished)
{
	struct look_request *request, *next;

	for (request = finished; request; request = next) {
		next = request->next;
		request->done(request->arg, request->result, request->reason);
		request_free(request);
	}
}

static bool same_body(const struct mqfs_body *a, const struct mqfs_body *b)
{
	return a->bytes == b->bytes && (a->bytes == 0 || memcmp(a->data, b->data, a->bytes) == 0);
}

/* The same message in two listings? One without an id is known by its time, its title, which may be that of many, and
 * its body. */
static bool same_message(const struct mqfs_message *a, const struct mqfs_message *b)
{
	mqfs_name_t name_a, name_b;

	if (!mqfs_message_same_copy(a, b))
		return false;
	if (a->message_id)
		return true;
	mqfs_name_kept_message(a, name_a);
	mqfs_name_kept_message(b, name_b);
	return strcmp(name_a, name_b) == 0 && same_body(a->body, b->body);
}

static bool is_free(const struct look_item *item, const struct mqfs_delivery *delivery)
{
	return item->held && !item->busy && same_message(item->delivery->message, delivery->message);
}

/* What is held of the message and not being settled; most often it has the same name still. */
static struct look_item *held_item(struct mqfs_look *look, const struct mqfs_delivery *delivery)
{
	struct look_item *item, *next;

	HASH_FIND_STR(look->items, delivery->name, item);
	if (item && is_free(item, delivery))
		return item;
	HASH_ITER(hh, look->items, item, next)
	{
		if (is_free(item, delivery))
			return item;
	}
	return NULL;
}

/* The listed item of a delivery that is being settled; a snapshot may have replaced it. */
static struct look_item *item_of(struct mqfs_look *look, const struct mqfs_delivery *delivery)
{
	struct look_item *item;

	HASH_FIND_STR(look->items, delivery->name, item);
	if (item &&
	    (item->delivery == delivery || (!look->holds && same_message(item->delivery->message, delivery->message))))
		return item;
	return NULL;
}

static struct mqfs_message *copy_to_bury(const struct mqfs_look *look, const struct mqfs_message *message)
{
	struct mqfs_history history;
	char host[256] = "";

	gethostname(host, sizeof(host) - 1);
	mqfs_history_read(message, &history);
	return mqfs_copy_for_dead(message, &(struct mqfs_failed_attempt){
	                                       .attempts = history.attempts,
	                                       .now_us = mqfs_clock_realtime_us(),
	                                       .error = history.error,
	                                       .dead_reason = "rejected",
	                                       .host = host,
	                                       .queue = look->queue,
	                                   });
}

/* R4: one more attempt, after the wait that the last one would have had. */
static struct mqfs_message *copy_to_grant(const struct mqfs_look *look, const struct mqfs_message *message,
                                          int64_t *ret_delay_ms)
{
	struct mqfs_history history;
	int64_t attempts;

	mqfs_history_read(message, &history);
	attempts = history.attempts > 0 ? history.attempts : 1;
	*ret_delay_ms = mqfs_retry_decide(&look->settings, attempts, attempts + 1, mqfs_retry_random()).delay_ms;
	return mqfs_copy_for_grant(message, mqfs_clock_realtime_us() + *ret_delay_ms * 1000);
}

static int plan(struct look_request *request)
{
	const struct mqfs_message *message = request->delivery->message;
	struct mqfs_disposition *disposition = &request->disposition;

	*disposition = (struct mqfs_disposition){.verb = MQFS_VERB_MOVE, .place = MQFS_PLACE_READY};
	switch (request->verb) {
	case MQFS_LOOK_DISCARD:
		disposition->verb = MQFS_VERB_ACK;
		return 0;
	case MQFS_LOOK_REPLAY:
		disposition->queue = request->queue;
		disposition->copy = mqfs_copy_afresh(message, request->priority, mqfs_clock_realtime_us());
		break;
	case MQFS_LOOK_RETRY_NOW:
		disposition->copy = mqfs_copy_for_release(message, 0);
		break;
	case MQFS_LOOK_GRANT:
		disposition->place = MQFS_PLACE_RETRY;
		disposition->copy = copy_to_grant(request->look, message, &disposition->delay_ms);
		break;
	case MQFS_LOOK_BURY:
		disposition->place = MQFS_PLACE_DEAD;
		disposition->copy = copy_to_bury(request->look, message);
		break;
	}
	return disposition->copy ? 0 : -ENOMEM;
}

static void begin(struct look_request *request)
{
	struct look_item *item = item_of(request->look, request->delivery);
	int result = plan(request);

	if (result < 0) {
		look_finish(request, result, NULL);
		return;
	}
	if (item)
		item->busy = true;
	look_ref(request->look);
	DL_APPEND2(request->look->work.settle, request, previous, next);
}

/* The message is held again: the request goes on with it. */
static void begin_with(struct look_request *request, struct look_item *item)
{
	struct mqfs_delivery *named = request->delivery;

	request->delivery = mqfs_delivery_ref(item->delivery);
	mqfs_delivery_unref(named);
	begin(request);
}

/* It is not held (any more): it waits until a browse has found it. */
static void look_for(struct look_request *request)
{
	struct mqfs_look *look = request->look;

	if (!look_browse(look)) {
		look_finish(request, -ENOENT, NULL);
		return;
	}
	DL_APPEND2(look->wanted, request, previous, next);
	look_due(look, request->deadline_ms);
}

void look_serve_wanted(struct mqfs_look *look, int result)
{
	struct look_request *request, *next;

	DL_FOREACH_SAFE2(look->wanted, request, next, next)
	{
		struct look_item *item = result == 0 ? held_item(look, request->delivery) : NULL;

		DL_DELETE2(look->wanted, request, previous, next);
		if (item)
			begin_with(request, item);
		else
			look_finish(request, result < 0 ? result : -ENOENT, NULL);
	}
}

static void count(const struct look_request *request)
{
	struct mqfs_counters *counters = request->look->counters;

	if (request->verb == MQFS_LOOK_GRANT)
		atomic_fetch_add(&counters->retried, 1);
	else if (request->verb == MQFS_LOOK_BURY)
		atomic_fetch_add(&counters->dead_lettered, 1);
}

/* The hold of everything as old as this one is over. */
static void drop_generation(struct mqfs_look *look, uint64_t generation)
{
	struct look_item *item, *next;

	HASH_ITER(hh, look->items, item, next)
	{
		if (!item->busy && item->delivery->generation <= generation)
			look_unlist(look, item);
	}
}

static void settled(struct look_request *request, struct look_item *item, int result)
{
	struct mqfs_look *look = request->look;

	count(request);
	if (item)
		look_unlist(look, item);
	if (result == MQFS_MOVED_STALE && look->holds && !look->closing) {
		drop_generation(look, request->delivery->generation);
		request->moved = true;
		request->verb = MQFS_LOOK_DISCARD;
		look_for(request);
	} else {
		look_finish(request, 0, NULL);
	}
}

static void not_settled(struct look_request *request, struct look_item *item, int result, const char *reason)
{
	struct mqfs_look *look = request->look;

	if (look->holds && result == -ESTALE && !request->again && !look->closing) {
		request->again = true;
		drop_generation(look, request->delivery->generation);
		look_for(request);
		return;
	}
	if (item && result == -ENOENT && request->verb == MQFS_LOOK_DISCARD)
		look_unlist(look, item);
	else if (item && (look->closing || look->phase != LOOK_HOLDING))
		look_release(look, item); /* the others went back while this one was busy */
	look->browsed_ms = 0;             /* it may no longer be there */
	look_finish(request, result, reason);
}

static void settle_done(void *arg, int result, const char *reason)
{
	struct look_request *request = arg;
	struct mqfs_look *look = request->look;
	struct look_item *item;

	FAILPOINT(look_settled);
	look_enter(look);
	item = item_of(look, request->delivery);
	if (item)
		item->busy = false;
	if (result >= 0)
		settled(request, item, result);
	else
		not_settled(request, item, result, reason);
	look_leave(look);
	look_unref(look);
}

void look_settle_issue(struct look_request *settle)
{
	struct look_request *request, *next;

	for (request = settle; request; request = next) {
		/* The completion may run, and free it, before mqfs_settle returns. */
		struct mqfs_disposition disposition = request->disposition;
		struct mqfs_delivery *delivery = mqfs_delivery_ref(request->delivery);

		next = request->next;
		FAILPOINT(look_settling);
		mqfs_settle(request->look->backend, delivery, &disposition, request->deadline_ms, settle_done, request);
		mqfs_delivery_unref(delivery);
	}
}

static struct look_request *request_new(struct mqfs_look *look, struct mqfs_delivery *delivery, const char *queue)
{
	struct look_request *request = calloc(1, sizeof(*request));

	if (!request)
		return NULL;
	request->queue = queue ? strdup(queue) : NULL;
	if (queue && !request->queue) {
		free(request);
		return NULL;
	}
	request->look = look;
	request->delivery = mqfs_delivery_ref(delivery);
	return request;
}

void mqfs_look_settle(struct mqfs_look *look, struct mqfs_delivery *delivery, enum mqfs_look_verb verb,
                      const char *queue, int priority, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct look_request *request = request_new(look, delivery, queue);
	struct look_item *item;

	if (!request) {
		done(arg, -ENOMEM, NULL);
		return;
	}
	request->verb = verb;
	request->priority = priority;
	request->deadline_ms = deadline_ms;
	request->done = done;
	request->arg = arg;

	look_enter(look);
	look->access_ms = mqfs_clock_monotonic_ms();
	item = look->holds ? held_item(look, delivery) : NULL;
	if (item)
		begin_with(request, item);
	else if (!look->holds)
		begin(request);
	else
		look_for(request);
	look_leave(look);
}
