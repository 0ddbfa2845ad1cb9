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

#include "clockwork.h"
#include "group.h"
#include "intake.h"
#include "lease.h"
#include "ledger.h"

/*
 * The one thread that touches the file. It sleeps until there is a request or something of its own is
 * due: the lease, a message whose time has come, a look whether another process has written.
 */

enum {
	POLL_MS = 50,       /* how soon another process's message is noticed */
	LOOK_UP_MS = 60000, /* the real-time clock may be set while the monotonic one is waited for */
	FAREWELL_MS = 2000, /* how long a close waits for another process's lock */
};

static bool is_late(const struct request *request, int64_t now_ms)
{
	return request->deadline_ms <= now_ms;
}

static bool is_control(const struct request *request, int64_t now_ms)
{
	(void)now_ms;
	return request->kind == REQUEST_CONSUME || request->kind == REQUEST_CANCEL;
}

/* A transaction of the writer's own has ended. After a failure there is none of its kind for a while. */
static int writer_note(struct store *store, int result, int64_t now_ms, int64_t *pause_ms)
{
	if (result == -EAGAIN)
		return result;
	group_note(store, result < 0 ? result : 0);
	if (result < 0)
		*pause_ms = now_ms + GROUP_PAUSE_MS;
	return 0;
}

/* The writer's own work: the lease, what is due, the log. -EAGAIN: another process holds the lock. */
static int writer_housekeep(struct store *store, int64_t now_ms)
{
	int r = 0;

	/* A transaction will look for itself. */
	if (!store->backlog)
		ledger_sync(store);
	if (now_ms >= store->pause.lease_ms && lease_next(store, now_ms) <= now_ms)
		r = writer_note(store, lease_keep(store), now_ms, &store->pause.lease_ms);
	if (r == 0 && now_ms >= store->pause.clockwork_ms && clockwork_next(store) <= mqfs_clock_realtime_us())
		r = writer_note(store, clockwork_run(store), now_ms, &store->pause.clockwork_ms);
	if (r == 0)
		checkpoint_run(&store->checkpoint, now_ms);
	return r;
}

/* consume and cancel are done in memory, in their order; the lease tells the other mounts. */
static struct request *writer_control(struct store *store)
{
	struct request *list = request_part(&store->backlog, is_control, 0), *cancels = NULL;

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
			request->consume.sink->ended(request->arg, -ENOMEM, group_reason(-ENOMEM));
		request_complete(request);
	}
	return cancels;
}

static void writer_round(struct store *store)
{
	struct request *cancels = writer_control(store);
	int64_t now_ms = mqfs_clock_monotonic_ms();

	group_fail(request_part(&store->backlog, is_late, now_ms), -ETIMEDOUT);
	/* A round waits once for a lock that another process holds, and who only reads not even that. */
	if (store->locked_out)
		group_read(store);
	store->locked_out = writer_housekeep(store, now_ms) == -EAGAIN;
	if (!store->locked_out)
		store->locked_out = group_commit(store, now_ms) == -EAGAIN;
	intake_notify(store);
	group_complete(cancels);
}

static int64_t latest(int64_t a_ms, int64_t b_ms)
{
	return a_ms > b_ms ? a_ms : b_ms;
}

static int64_t earliest(int64_t a_ms, int64_t b_ms)
{
	return a_ms < b_ms ? a_ms : b_ms;
}

/* When something is due, by the monotonic clock. */
static int64_t writer_next_due(struct store *store, int64_t now_ms)
{
	int64_t due_us = clockwork_next(store), wait_ms = GROUP_PAUSE_MS;

	if (due_us == INT64_MAX)
		return MQFS_NEVER;
	if (due_us >= 0)
		wait_ms = (due_us - mqfs_clock_realtime_us() + 999) / 1000;
	return now_ms + latest(0, earliest(wait_ms, LOOK_UP_MS));
}

static int64_t writer_next(struct store *store, int64_t now_ms)
{
	int64_t next_ms = checkpoint_next(&store->checkpoint);

	if (store->backlog || store->more)
		return now_ms;
	next_ms = earliest(next_ms, latest(lease_next(store, now_ms), store->pause.lease_ms));
	next_ms = earliest(next_ms, latest(writer_next_due(store, now_ms), store->pause.clockwork_ms));
	if (intake_hungry(store))
		next_ms = earliest(next_ms, latest(now_ms + POLL_MS, store->pause.feed_ms));
	return next_ms;
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
		group_fail(rest, -ESHUTDOWN);
	}
}

static void *writer_main(void *arg)
{
	struct store *store = arg;

	while (!writer_collect(store)) {
		atomic_store(&store->busy_ms, mqfs_clock_monotonic_ms());
		writer_round(store);
		atomic_store(&store->busy_ms, 0);
	}
	writer_farewell(store);
	return NULL;
}

int writer_start(struct store *store)
{
	sigset_t all, old;
	int r;

	store->sequence = -1;
	store->due_us = -1;
	r = checkpoint_init(&store->checkpoint, store->db);
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
