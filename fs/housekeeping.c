/* SPDX-License-Identifier: MIT */
#include "housekeeping.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "fs.h"
#include "queue.h"

struct housekeeping {
	pthread_t thread;
	pthread_mutex_t lock; /* a leaf lock; guards what follows */
	pthread_cond_t changed;
	int64_t next_ms;
	bool stopping;
};

static struct timespec timespec_of(int64_t ms)
{
	return (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
}

/* Sleeps until something is due; false: stop. */
static bool sleep_until_due(struct housekeeping *keeper)
{
	pthread_mutex_lock(&keeper->lock);
	while (!keeper->stopping && keeper->next_ms > mqfs_clock_monotonic_ms()) {
		if (keeper->next_ms == MQFS_NEVER) {
			pthread_cond_wait(&keeper->changed, &keeper->lock);
		} else {
			struct timespec until = timespec_of(keeper->next_ms);
			pthread_cond_timedwait(&keeper->changed, &keeper->lock, &until);
		}
	}
	/* What becomes due while the round is made must not be missed: the round starts from "never". */
	keeper->next_ms = MQFS_NEVER;
	bool go_on = !keeper->stopping;
	pthread_mutex_unlock(&keeper->lock);
	return go_on;
}

static void *keep_house(void *arg)
{
	struct fs *fs = arg;
	while (sleep_until_due(fs->housekeeping)) {
		int64_t now_ms = mqfs_clock_monotonic_ms();
		housekeeping_wake(fs, parked_tick(fs, now_ms));
		housekeeping_wake(fs, queues_tick(fs, now_ms));
	}
	return NULL;
}

int housekeeping_start(struct fs *fs)
{
	struct housekeeping *keeper = calloc(1, sizeof(*keeper));
	if (!keeper)
		return -ENOMEM;
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&keeper->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_init(&keeper->lock, NULL);
	keeper->next_ms = MQFS_NEVER;
	fs->housekeeping = keeper;
	int error = pthread_create(&keeper->thread, NULL, keep_house, fs);
	if (error) {
		fs->housekeeping = NULL;
		free(keeper);
	}
	return -error;
}

void housekeeping_stop(struct fs *fs)
{
	struct housekeeping *keeper = fs->housekeeping;
	if (!keeper)
		return;
	pthread_mutex_lock(&keeper->lock);
	keeper->stopping = true;
	pthread_cond_signal(&keeper->changed);
	pthread_mutex_unlock(&keeper->lock);
	pthread_join(keeper->thread, NULL);
}

void housekeeping_wake(struct fs *fs, int64_t due_ms)
{
	struct housekeeping *keeper = fs->housekeeping;
	if (!keeper)
		return;
	pthread_mutex_lock(&keeper->lock);
	if (due_ms < keeper->next_ms) {
		keeper->next_ms = due_ms;
		pthread_cond_signal(&keeper->changed);
	}
	pthread_mutex_unlock(&keeper->lock);
}
