/* SPDX-License-Identifier: MIT */
#include "writer.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "sqlite"
#include <mqfs/log.h>

#include "checkpoint.h"
#include "clockwork.h"
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
 * say), the transaction is rolled back and each of its requests is repeated in one of its own: whose
 * fault it was fails again, and only that. So no savepoints are needed where all goes well.
 *
 * When another process holds the lock, the requests stay in the backlog until their deadlines; those
 * that only read need no lock.
 */

enum {
	BATCH_REQUESTS_MAX = 1024,
	BATCH_BYTES_MAX = 8 << 20,
	POLL_MS = 50,       /* how soon another process's message is noticed */
	PAUSE_MS = 1000,    /* after a failure in the writer's own work */
	LOOK_UP_MS = 60000, /* the real-time clock may be set while the monotonic one is waited for */
	FAREWELL_MS = 2000, /* how long a close waits for another process's lock */
	BUSY_WAIT_US = 250, /* at first; then four times as long */
};

static int (*const handlers[])(struct store *store, struct request *request) = {
    [REQUEST_DECLARE] = queues_declare, [REQUEST_FIND] = queues_find,      [REQUEST_DELETE] = queues_delete,
    [REQUEST_LIST] = queues_list,       [REQUEST_DEPTHS] = queues_depths,  [REQUEST_PUBLISH] = traffic_publish,
    [REQUEST_SETTLE] = traffic_settle,  [REQUEST_BROWSE] = traffic_browse,
};

static const char *writer_reason(int result)
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
		return "another process has locked the store";
	case -ESHUTDOWN:
		return "the store was closed";
	case -ENOMEM:
		return "out of memory";
	}
	return "the store could not be read or written";
}

static void writer_note(struct store *store, int result)
{
	bool news;

	pthread_mutex_lock(&store->lock);
	news = (result < 0) != (store->trouble[0] != '\0');
	if (news) {
		snprintf(store->trouble, sizeof(store->trouble), "%s", result < 0 ? writer_reason(result) : "");
		store->since_us = mqfs_clock_realtime_us();
	}
	pthread_mutex_unlock(&store->lock);
	if (news && result < 0)
		log_warning("%s: %s", store->path, writer_reason(result));
}

static int writer_busy(void *arg, int count)
{
	struct store *store = arg;
	struct timespec pause = {.tv_nsec = (count < 4 ? 1 : 4) * BUSY_WAIT_US * 1000};

	if (mqfs_clock_monotonic_ms() >= store->busy_until_ms)
		return 0;
	nanosleep(&pause, NULL);
	return 1;
}

/* One transaction of all of the list. 0 and every outcome is set, or a negative errno and nothing was done. */
static int writer_try(struct store *store, struct request *list, bool feed)
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
	store->more = false;
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

static void writer_complete(struct request *list)
{
	while (list) {
		struct request *request = list;

		list = request->next;
		request_complete(request);
	}
}

static void writer_fail(struct request *list, int result)
{
	for (struct request *request = list; request; request = request->next) {
		request_reset(request);
		request->result = result;
		request->reason = writer_reason(result);
	}
	writer_complete(list);
}

/* Moves what fits from one list to another, up to a bound for one transaction. */
static struct request *writer_batch(struct store *store)
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

/* Splits a list in two, which keep their order. */
static struct request *writer_part(struct request **list,
                                   bool (*belongs)(const struct request *request, int64_t now_ms), int64_t now_ms)
{
	struct request *part = NULL, **part_end = &part;

	while (*list) {
		if (!belongs(*list, now_ms)) {
			list = &(*list)->next;
			continue;
		}
		*part_end = *list;
		part_end = &(*list)->next;
		*list = *part_end;
		*part_end = NULL;
	}
	return part;
}

static bool is_late(const struct request *request, int64_t now_ms)
{
	return request->deadline_ms <= now_ms;
}

static bool only_reads(const struct request *request, int64_t now_ms)
{
	(void)now_ms;
	return !request_writes(request);
}

static bool is_control(const struct request *request, int64_t now_ms)
{
	(void)now_ms;
	return request->kind == REQUEST_CONSUME || request->kind == REQUEST_CANCEL;
}

/* Something in the transaction failed: each request for itself, without our own work. */
static void writer_singly(struct store *store, struct request *list)
{
	struct request *request, *next;
	int r = 0;

	for (request = list; request; request = next) {
		next = request->next;
		request->next = NULL;
		r = writer_try(store, request, false);
		if (r == -EAGAIN) {
			request->next = next;
			request_append(&request->next, store->backlog);
			store->backlog = request;
			return;
		}
		if (r < 0)
			writer_fail(request, r);
		else
			writer_complete(request);
	}
}

static void writer_failed(struct store *store, struct request *batch, int result)
{
	log_debug("%s: a transaction failed: %s", store->path, strerror(-result));
	if (result == -ENOSPC)
		checkpoint_make_room(store);
	store->pause_until_ms = mqfs_clock_monotonic_ms() + PAUSE_MS;
	writer_singly(store, batch);
}

static void writer_locked_out(struct store *store, struct request *batch)
{
	struct request *reads = writer_part(&batch, only_reads, 0);

	request_append(&batch, store->backlog);
	store->backlog = batch;
	if (!reads)
		return;
	if (writer_try(store, reads, false) == 0) {
		writer_complete(reads);
		return;
	}
	request_append(&reads, store->backlog);
	store->backlog = reads;
}

static void writer_transact(struct store *store, int64_t now_ms)
{
	struct request *batch = writer_batch(store);
	bool feed = now_ms >= store->pause_until_ms && lease_holds(store) && intake_can_feed(store) == 1;
	bool write = feed;
	int r;

	if (!batch && !feed)
		return;
	for (struct request *request = batch; request; request = request->next)
		write |= request_writes(request);
	/* What is published in this very transaction may feed a consumer that found nothing before. */
	feed |= write && now_ms >= store->pause_until_ms && intake_hungry(store);
	r = writer_try(store, batch, feed);
	if (write && r != -EAGAIN)
		writer_note(store, r);
	if (r == 0)
		writer_complete(batch);
	else if (r == -EAGAIN)
		writer_locked_out(store, batch);
	else
		writer_failed(store, batch, r);
}

/* The writer's own work: the lease, what is due, the log. */
static void writer_housekeep(struct store *store, int64_t now_ms)
{
	int r = 0;

	if (now_ms < store->pause_until_ms)
		return;
	if (ledger_sync(store) < 0)
		return;
	if (lease_next(store, now_ms) <= now_ms)
		r = lease_keep(store);
	if (r == 0 && clockwork_next(store) <= mqfs_clock_realtime_us())
		r = clockwork_run(store);
	if (r < 0 && r != -EAGAIN) {
		writer_note(store, r);
		store->pause_until_ms = now_ms + PAUSE_MS;
	}
	checkpoint_run(store, now_ms);
}

/* consume and cancel are done in memory, in their order; the lease tells the other mounts. */
static struct request *writer_control(struct store *store)
{
	struct request *list = writer_part(&store->backlog, is_control, 0), *cancels = NULL;

	while (list) {
		struct request *request = list;

		list = request->next;
		request->next = NULL;
		if (request->kind == REQUEST_CANCEL) {
			intake_cancel(store, request);
			request_append(&cancels, request);
			continue;
		}
		if (intake_consume(store, request) < 0 && request->consume.sink->ended)
			request->consume.sink->ended(request->arg, -ENOMEM, writer_reason(-ENOMEM));
		request_complete(request);
	}
	return cancels;
}

static void writer_round(struct store *store)
{
	struct request *cancels = writer_control(store);
	int64_t now_ms = mqfs_clock_monotonic_ms();

	writer_fail(writer_part(&store->backlog, is_late, now_ms), -ETIMEDOUT);
	writer_housekeep(store, now_ms);
	writer_transact(store, now_ms);
	intake_notify(store);
	writer_complete(cancels);
}

static int64_t writer_next(struct store *store, int64_t now_ms)
{
	int64_t next_ms = lease_next(store, now_ms), other_ms = checkpoint_next(store);
	int64_t due_us = clockwork_next(store);

	if (store->backlog || store->more)
		return now_ms;
	if (other_ms < next_ms)
		next_ms = other_ms;
	if (due_us < INT64_MAX) {
		int64_t wait_ms = (due_us - mqfs_clock_realtime_us() + 999) / 1000;

		wait_ms = due_us < 0 ? PAUSE_MS : wait_ms < 0 ? 0 : wait_ms < LOOK_UP_MS ? wait_ms : LOOK_UP_MS;
		if (now_ms + wait_ms < next_ms)
			next_ms = now_ms + wait_ms;
	}
	if (intake_hungry(store) && now_ms + POLL_MS < next_ms)
		next_ms = now_ms + POLL_MS;
	return next_ms > store->pause_until_ms ? next_ms : store->pause_until_ms;
}

static void writer_sleep(struct store *store, int64_t until_ms)
{
	struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
	int r = 0;

	store->sleeping = true;
	while (!store->requests && !store->closing && r == 0) {
		if (until_ms == MQFS_NEVER)
			r = pthread_cond_wait(&store->wake, &store->lock);
		else
			r = pthread_cond_timedwait(&store->wake, &store->lock, &until);
	}
	store->sleeping = false;
}

/* Waits for work and takes what was queued. true: the store is being closed. */
static bool writer_collect(struct store *store)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();
	int64_t next_ms = writer_next(store, now_ms);
	struct request *fresh;
	bool closing;

	pthread_mutex_lock(&store->lock);
	if (next_ms > now_ms)
		writer_sleep(store, next_ms);
	fresh = store->requests;
	store->requests = NULL;
	store->requests_end = &store->requests;
	closing = store->closing;
	pthread_mutex_unlock(&store->lock);
	request_append(&store->backlog, fresh);
	return closing;
}

/* What was queued before the close is done if it can be; what comes now is not. */
static void writer_farewell(struct store *store)
{
	int64_t until_ms = mqfs_clock_monotonic_ms() + FAREWELL_MS;
	int r;

	for (struct intake *intake = store->intakes; intake; intake = intake->hh.next)
		intake->active = false;
	do
		writer_round(store);
	while (store->backlog && mqfs_clock_monotonic_ms() < until_ms);
	do
		r = lease_end(store);
	while (r == -EAGAIN && mqfs_clock_monotonic_ms() < until_ms);
	if (r < 0)
		log_debug("%s: what was held goes back when the lease ends: %s", store->path, strerror(-r));
	for (;;) {
		struct request *rest;

		writer_collect(store);
		rest = store->backlog;
		store->backlog = NULL;
		if (!rest)
			return;
		writer_fail(rest, -ESHUTDOWN);
	}
}

static void *writer_main(void *arg)
{
	struct store *store = arg;

	while (!writer_collect(store))
		writer_round(store);
	writer_farewell(store);
	return NULL;
}

int writer_start(struct store *store)
{
	sigset_t all, old;
	int r;

	store->sequence = -1;
	store->due_us = -1;
	sqlite3_busy_handler(store->db, writer_busy, store);
	r = checkpoint_init(store);
	if (r < 0)
		return r;
	/* Signals are main's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&store->thread, NULL, writer_main, store);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

void writer_submit(struct store *store, struct request *request)
{
	bool wake;

	pthread_mutex_lock(&store->lock);
	*store->requests_end = request;
	store->requests_end = &request->next;
	wake = store->sleeping;
	pthread_mutex_unlock(&store->lock);
	if (wake)
		pthread_cond_signal(&store->wake);
}

void writer_stop(struct store *store)
{
	pthread_mutex_lock(&store->lock);
	store->closing = true;
	pthread_mutex_unlock(&store->lock);
	pthread_cond_signal(&store->wake);
	pthread_join(store->thread, NULL);
}
