/* SPDX-License-Identifier: MIT */
#include "group.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>
#define LOG_TOPIC "sqlite"
#include <mqfs/log.h>

#include "intake.h"
#include "lease.h"
#include "ledger.h"
#include "queues.h"
#include "traffic.h"

/*
 * The writer takes everything that was queued and makes one transaction of it: while one commit waits for
 * the disk the next batch gathers by itself, so nothing waits on purpose, and the busier the store,
 * the more messages share one synchronisation. What is ready for this mount's consumers is taken in the
 * same transaction. After the commit, with no lock held, the completions and the sinks are called.
 *
 * A handler finds out whether it must refuse (no such queue, full, no longer there) before it
 * changes anything, so a refusal leaves nothing to undo. When something fails after that (the disk is full,
 * say), the transaction is rolled back and each of its requests is repeated in one of its own, and so is the taking:
 * whose fault it was fails again, and only that. So no savepoints are needed where all goes well.
 *
 * When another process holds the lock, the requests stay in the backlog until their deadlines; those
 * that only read need no lock.
 */

enum {
	BATCH_REQUESTS_MAX = 1024,
	BATCH_BYTES_MAX = 8 << 20,
};

static int (*const handlers[])(struct store *store, struct request *request) = {
    [REQUEST_DECLARE] = queues_declare, [REQUEST_FIND] = queues_find,      [REQUEST_DELETE] = queues_delete,
    [REQUEST_LIST] = queues_list,       [REQUEST_DEPTHS] = queues_depths,  [REQUEST_PUBLISH] = traffic_publish,
    [REQUEST_SETTLE] = traffic_settle,  [REQUEST_BROWSE] = traffic_browse,
};

const char *group_reason(int result)
{
	switch (result) {
	case -ENOSPC:
		return "the disk is full";
	case -EROFS:
		return "the store is read-only";
	case -EACCES:
		return "no permission to write the store";
	case -EFBIG:
		return "the message is larger than the store takes";
	case -ETIMEDOUT:
		return "the store was locked by another process, or too slow";
	case -ESHUTDOWN:
		return "the store was closed";
	case -ENOMEM:
		return "out of memory";
	}
	return "the store could not be read or written";
}

void group_note(struct store *store, int result)
{
	bool news;

	pthread_mutex_lock(&store->lock);
	news = (result < 0) != (store->trouble[0] != '\0');
	if (news) {
		snprintf(store->trouble, sizeof(store->trouble), "%s", result < 0 ? group_reason(result) : "");
		store->since_us = mqfs_clock_realtime_us();
	}
	pthread_mutex_unlock(&store->lock);
	if (news && result < 0)
		log_warning("%s: %s", store->path, group_reason(result));
}

/* One transaction of all of the list. 0 and every outcome is set, or a negative errno and nothing was done. */
static int group_try(struct store *store, struct request *list, bool feed)
{
	bool write = feed;
	int r;

	for (struct request *request = list; request; request = request->next)
		write |= request_writes(request);
	r = ledger_begin(store, write);
	if (r < 0)
		return r;
	for (struct request *request = list; request && r >= 0; request = request->next) {
		request_reset(request);
		r = handlers[request->kind](store, request);
	}
	if (r >= 0 && write && feed && lease_holds(store)) {
		r = intake_feed(store);
		store->more = r > 0;
	}
	if (r >= 0)
		r = ledger_commit(store);
	else
		ledger_rollback(store);
	if (r < 0)
		intake_rolled_back(store);
	else
		intake_committed(store);
	return r;
}

void group_complete(struct request *list)
{
	while (list) {
		struct request *request = list;

		list = request->next;
		request_complete(request);
	}
}

void group_fail(struct request *list, int result)
{
	for (struct request *request = list; request; request = request->next) {
		request_reset(request);
		request->result = result;
		request->reason = group_reason(result);
	}
	group_complete(list);
}

/* Moves what fits from one list to another, up to a bound for one transaction. */
static struct request *group_take(struct store *store)
{
	struct request *batch = store->backlog, **end = &store->backlog;
	size_t bytes = 0;

	for (int count = 0; *end && count < BATCH_REQUESTS_MAX && bytes < BATCH_BYTES_MAX; count++) {
		if ((*end)->message)
			bytes += (*end)->message->body->bytes;
		end = &(*end)->next;
	}
	store->backlog = *end;
	*end = NULL;
	return batch;
}

static bool only_reads(const struct request *request, int64_t now_ms)
{
	(void)now_ms;
	return !request_writes(request);
}

/* Something in the transaction failed: each request for itself. *last: how the last that writes fared. */
static int group_singly(struct store *store, struct request *list, int *last)
{
	struct request *request, *next;

	for (request = list; request; request = next) {
		int r;

		next = request->next;
		request->next = NULL;
		r = group_try(store, request, false);
		if (r == -EAGAIN) {
			request->next = next;
			request_append(&request->next, store->backlog);
			store->backlog = request;
			return r;
		}
		if (request_writes(request))
			*last = r;
		if (r < 0)
			group_fail(request, r);
		else
			group_complete(request);
	}
	return 0;
}

/* … and so are the consumers fed. */
static void group_feed(struct store *store, int *last)
{
	int r = intake_can_feed(store);

	if (r == 0 || !lease_holds(store))
		return;
	if (r == 1)
		r = group_try(store, NULL, true);
	if (r == -EAGAIN)
		return;
	if (r < 0)
		store->pause.feed_ms = mqfs_clock_monotonic_ms() + GROUP_PAUSE_MS;
	*last = r;
}

/* What the store's state is after all: 0 when the last transaction worked. */
static int group_failed(struct store *store, struct request *batch, int result, bool feed)
{
	log_debug("%s: a transaction failed: %s", store->path, strerror(-result));
	if (result == -ENOSPC)
		checkpoint_make_room(&store->checkpoint);
	if (group_singly(store, batch, &result) == 0 && feed)
		group_feed(store, &result);
	return result;
}

void group_read(struct store *store)
{
	struct request *reads = request_part(&store->backlog, only_reads, 0);

	if (!reads)
		return;
	if (group_try(store, reads, false) == 0) {
		group_complete(reads);
		return;
	}
	request_append(&reads, store->backlog);
	store->backlog = reads;
}

static void group_locked_out(struct store *store, struct request *batch)
{
	request_append(&batch, store->backlog);
	store->backlog = batch;
	group_read(store);
}

int group_commit(struct store *store, int64_t now_ms)
{
	struct request *batch = group_take(store);
	bool feed = now_ms >= store->pause.feed_ms && lease_holds(store) && intake_can_feed(store) == 1;
	bool write = feed;
	int r, last;

	store->more = false; /* nothing to take after all, unless group_try says so */
	if (!batch && !feed)
		return 0;
	for (struct request *request = batch; request; request = request->next)
		write |= request_writes(request);
	/* What is published in this very transaction may feed a consumer that found nothing before. */
	feed |= write && now_ms >= store->pause.feed_ms && intake_hungry(store);
	last = r = group_try(store, batch, feed);
	if (r == 0)
		group_complete(batch);
	FAILPOINT(sqlite_completed);
	if (r == -EAGAIN)
		group_locked_out(store, batch);
	else if (r < 0)
		last = group_failed(store, batch, r, feed);
	if (write && last != -EAGAIN)
		group_note(store, last);
	return r;
}
