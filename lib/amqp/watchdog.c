/* SPDX-License-Identifier: MIT */
#include "watchdog.h"

#include <assert.h>
#include <time.h>

#include <mqfs/clock.h>

#include "connection.h"

int watchdog_init(struct watchdog *watchdog)
{
	pthread_condattr_t attributes;
	int r;

	*watchdog = (struct watchdog){0};
	atomic_init(&watchdog->next_ms, MQFS_NEVER);
	r = -pthread_condattr_init(&attributes);
	if (r < 0)
		return r;
	r = -pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	if (r == 0)
		r = -pthread_cond_init(&watchdog->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	if (r == 0)
		r = -pthread_mutex_init(&watchdog->lock, NULL);
	return r;
}

void watchdog_deinit(struct watchdog *watchdog)
{
	pthread_cond_destroy(&watchdog->wake);
	pthread_mutex_destroy(&watchdog->lock);
}

void watchdog_add(struct watchdog *watchdog, struct connection *connection)
{
	assert(watchdog->count < WATCHDOG_CONNECTIONS);
	watchdog->connections[watchdog->count++] = connection;
}

void watchdog_notify(struct watchdog *watchdog, int64_t due_ms)
{
	if (due_ms >= atomic_load(&watchdog->next_ms))
		return;
	pthread_mutex_lock(&watchdog->lock);
	watchdog->notified = true;
	pthread_cond_signal(&watchdog->wake);
	pthread_mutex_unlock(&watchdog->lock);
}

/* What is notified from here on may have been missed, and makes us look again: hence "never" comes first. */
static int64_t look(struct watchdog *watchdog)
{
	int64_t now_ms = mqfs_clock_monotonic_ms(), next_ms = MQFS_NEVER, due_ms;

	for (size_t i = 0; i < watchdog->count; i++) {
		due_ms = connection_watch(watchdog->connections[i], now_ms);
		if (due_ms < next_ms)
			next_ms = due_ms;
	}
	return next_ms;
}

static void wait_until(struct watchdog *watchdog, int64_t due_ms)
{
	struct timespec due = {.tv_sec = due_ms / 1000, .tv_nsec = due_ms % 1000 * 1000000};

	if (due_ms == MQFS_NEVER)
		pthread_cond_wait(&watchdog->wake, &watchdog->lock);
	else
		pthread_cond_timedwait(&watchdog->wake, &watchdog->lock, &due);
}

static void *watch(void *arg)
{
	struct watchdog *watchdog = arg;
	int64_t next_ms;

	pthread_setname_np(pthread_self(), "mqfs-watchdog");
	pthread_mutex_lock(&watchdog->lock);
	while (!watchdog->stopping) {
		watchdog->notified = false;
		atomic_store(&watchdog->next_ms, MQFS_NEVER);
		pthread_mutex_unlock(&watchdog->lock);
		next_ms = look(watchdog);
		pthread_mutex_lock(&watchdog->lock);
		if (watchdog->notified || watchdog->stopping)
			continue;
		atomic_store(&watchdog->next_ms, next_ms);
		wait_until(watchdog, next_ms);
	}
	pthread_mutex_unlock(&watchdog->lock);
	return NULL;
}

int watchdog_start(struct watchdog *watchdog)
{
	return -pthread_create(&watchdog->thread, NULL, watch, watchdog);
}

void watchdog_stop(struct watchdog *watchdog)
{
	pthread_mutex_lock(&watchdog->lock);
	watchdog->stopping = true;
	pthread_cond_signal(&watchdog->wake);
	pthread_mutex_unlock(&watchdog->lock);
	pthread_join(watchdog->thread, NULL);
}
