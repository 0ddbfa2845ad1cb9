/* SPDX-License-Identifier: MIT */
#include "intake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/clock.h>
#include <utlist.h>

#include "ledger.h"
#include "messages.h"

/* One transaction takes no more than this; then the publishers have their turn. */
enum { FEED_MESSAGES_MAX = 256, FEED_BYTES_MAX = 8 << 20 };

static struct intake *intake_find(struct store *store, const char *queue)
{
	struct intake *intake;

	HASH_FIND_STR(store->intakes, queue, intake);
	return intake;
}

int intake_consume(struct store *store, const struct request *request)
{
	struct intake *intake = intake_find(store, request->queue);

	if (!intake) {
		intake = calloc(1, sizeof(*intake));
		if (intake)
			intake->queue = strdup(request->queue);
		if (intake && intake->queue)
			HASH_ADD_KEYPTR(hh, store->intakes, intake->queue, strlen(intake->queue), intake);
		if (!intake || !intake->hh.tbl) {
			if (intake)
				free(intake->queue);
			free(intake);
			return -ENOMEM;
		}
	}
	intake->prefetch = request->consume.prefetch;
	intake->sink = request->consume.sink;
	intake->arg = request->arg;
	intake->drained = false;
	if (!intake->active) {
		intake->active = true;
		intake->prepared = false;
		intake->ended = 0;
		intake->queue_id = 0;
		store->consumers_changed = true;
	}
	return 0;
}

void intake_cancel(struct store *store, const struct request *request)
{
	struct intake *intake = intake_find(store, request->queue);

	if (!intake || !intake->active)
		return;
	intake->active = false;
	store->consumers_changed = true;
}

static int64_t intake_room(const struct intake *intake)
{
	return intake->prefetch - (intake->held - intake->settling);
}

bool intake_wanted(const struct store *store)
{
	for (struct intake *intake = store->intakes; intake; intake = intake->hh.next)
		if (intake->active || intake->held > 0)
			return true;
	return false;
}

bool intake_hungry(const struct store *store)
{
	for (struct intake *intake = store->intakes; intake; intake = intake->hh.next)
		if (intake->active && intake_room(intake) > 0)
			return true;
	return false;
}

/* The consumer's queue, NULL when it is no more: a new one of the same name is another queue. */
static int intake_queue(struct store *store, struct intake *intake, struct queue **ret_queue)
{
	int r = ledger_queue(store, intake->queue, ret_queue);

	if (r < 0)
		return r;
	if (*ret_queue && intake->queue_id == 0)
		intake->queue_id = (*ret_queue)->id;
	if (!*ret_queue || (*ret_queue)->id != intake->queue_id) {
		*ret_queue = NULL;
		intake->ended = -ENOENT;
	}
	return 0;
}

int intake_can_feed(struct store *store)
{
	int found = 0;

	for (struct intake *intake = store->intakes; intake; intake = intake->hh.next) {
		struct queue *queue;
		int r;

		if (!intake->active || intake->ended < 0 || intake_room(intake) <= 0)
			continue;
		r = intake_queue(store, intake, &queue);
		if (r < 0)
			return r;
		if (queue && queue->counts[STATE_READY] > 0)
			found = 1;
	}
	return found;
}

static int intake_select(struct store *store, struct intake *intake, const struct queue *queue, int64_t limit)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_MESSAGE_NEXT];
	size_t bytes = 0;
	int r = 0;

	sqlite3_bind_int64(statement, 1, queue->id);
	sqlite3_bind_int64(statement, 2, limit);
	sqlite3_bind_int64(statement, 3, mqfs_clock_realtime_us());
	while (bytes < FEED_BYTES_MAX && (r = statement_step(statement)) == 1) {
		struct mqfs_delivery *delivery;
		bool damaged;

		r = message_read(statement, intake->queue, MQFS_PLACE_READY, &delivery, &damaged);
		if (r < 0)
			break;
		bytes += delivery->message->body->bytes;
		if (damaged)
			DL_APPEND2(intake->spoiled, delivery, previous, next);
		else
			DL_APPEND2(intake->taken, delivery, previous, next);
		intake->taken_count += !damaged;
	}
	sqlite3_reset(statement);
	return r < 0 ? r : 0;
}

static int intake_take(struct store *store, struct queue *queue, struct mqfs_delivery *delivery)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_MESSAGE_TAKE];

	delivery->generation = (uint64_t)ledger_next(store);
	sqlite3_bind_int64(statement, 1, (int64_t)delivery->tag);
	sqlite3_bind_int64(statement, 2, store->mount);
	sqlite3_bind_int64(statement, 3, (int64_t)delivery->generation);
	ledger_count(queue, STATE_READY, -1);
	ledger_count(queue, STATE_LEASED, 1);
	return statement_run(statement);
}

static int intake_feed_one(struct store *store, struct intake *intake)
{
	int64_t limit = intake_room(intake);
	struct mqfs_delivery *delivery;
	struct queue *queue;
	bool capped = limit > FEED_MESSAGES_MAX;
	int r = intake_queue(store, intake, &queue);

	if (r < 0 || !queue || queue->counts[STATE_READY] == 0)
		return r;
	r = intake_select(store, intake, queue, capped ? FEED_MESSAGES_MAX : limit);
	DL_FOREACH(intake->taken, delivery)
	{
		if (r == 0)
			r = intake_take(store, queue, delivery);
	}
	DL_FOREACH(intake->spoiled, delivery)
	{
		struct message_fence fence = {
		    .id = (int64_t)delivery->tag, .generation = (int64_t)delivery->generation, .state = STATE_READY};

		if (r >= 0)
			r = message_bury(store, queue, &fence, "damaged");
	}
	if (r < 0)
		return r;
	return intake->spoiled || (intake->taken_count > 0 && (capped || intake->taken_count < limit));
}

int intake_feed(struct store *store)
{
	int more = 0;

	for (struct intake *intake = store->intakes; intake; intake = intake->hh.next) {
		int r;

		if (!intake->active || intake->ended < 0 || intake_room(intake) <= 0)
			continue;
		r = intake_feed_one(store, intake);
		if (r < 0)
			return r;
		more |= r;
	}
	return more;
}

void intake_settled(struct store *store, const char *queue)
{
	struct intake *intake = intake_find(store, queue);

	if (intake)
		intake->settling++;
}

static void drop_list(struct mqfs_delivery **list)
{
	struct mqfs_delivery *delivery, *next;

	DL_FOREACH_SAFE(*list, delivery, next)
	{
		DL_DELETE2(*list, delivery, previous, next);
		mqfs_delivery_unref(delivery);
	}
}

void intake_committed(struct store *store)
{
	for (struct intake *intake = store->intakes; intake; intake = intake->hh.next) {
		intake->held += intake->taken_count - intake->settling;
		intake->settling = 0;
		intake->taken_count = 0;
		drop_list(&intake->spoiled);
	}
}

void intake_rolled_back(struct store *store)
{
	for (struct intake *intake = store->intakes; intake; intake = intake->hh.next) {
		intake->settling = 0;
		intake->taken_count = 0;
		drop_list(&intake->taken);
		drop_list(&intake->spoiled);
	}
}

void intake_lost(struct store *store)
{
	for (struct intake *intake = store->intakes; intake; intake = intake->hh.next) {
		intake->lost |= intake->held > 0;
		intake->held = 0;
	}
}

static void intake_tell_end(struct store *store, struct intake *intake)
{
	int result = intake->ended;

	intake->active = false;
	intake->held = 0;
	store->consumers_changed = true;
	if (intake->sink->ended)
		intake->sink->ended(intake->arg, result, "no such queue");
}

static void intake_tell(struct store *store, struct intake *intake)
{
	struct mqfs_delivery *delivery, *next;

	if (intake->lost && intake->sink->lost)
		intake->sink->lost(intake->arg, intake->newest);
	intake->lost = false;
	if (intake->ended < 0) {
		intake_tell_end(store, intake);
		return;
	}
	if (intake->queue_id == 0)
		return; /* no transaction has looked for it yet */
	if (!intake->prepared && intake->sink->prepared)
		intake->sink->prepared(intake->arg, 0, NULL);
	intake->prepared = true;
	DL_FOREACH_SAFE(intake->taken, delivery, next)
	{
		DL_DELETE2(intake->taken, delivery, previous, next);
		delivery->previous = delivery->next = NULL;
		intake->newest = delivery->generation;
		intake->drained = false;
		intake->sink->delivered(intake->arg, delivery);
	}
}

void intake_notify(struct store *store)
{
	for (struct intake *intake = store->intakes; intake; intake = intake->hh.next) {
		struct queue *queue;

		if (!intake->active)
			continue;
		intake_tell(store, intake);
		if (intake->drained || !intake->active || !intake->prepared || intake_room(intake) <= 0)
			continue;
		HASH_FIND(by_name, store->queues_by_name, intake->queue, strlen(intake->queue), queue);
		if (!queue || queue->counts[STATE_READY] > 0)
			continue;
		intake->drained = true;
		if (intake->sink->drained)
			intake->sink->drained(intake->arg);
	}
}

void intake_free(struct store *store)
{
	struct intake *intake, *next;

	intake_rolled_back(store);
	HASH_ITER(hh, store->intakes, intake, next)
	{
		HASH_DEL(store->intakes, intake);
		free(intake->queue);
		free(intake);
	}
}
