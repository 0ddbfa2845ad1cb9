/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "outbox"
#include <mqfs/log.h>

#include "outbox_internal.h"

/* The outbox's life, and its tick on the state's thread. */

enum {
	POLL_MS = 250,        /* how soon other mounts' changes are noticed */
	POLL_EMPTY_MS = 1000, /* … when nothing is there */
	PATIENCE_MS = 2000,   /* how long a close waits for what is on the way, and for the disk */
};

struct mqfs_outbox *outbox_ref(struct mqfs_outbox *outbox)
{
	atomic_fetch_add(&outbox->references, 1);
	return outbox;
}

void outbox_unref(struct mqfs_outbox *outbox)
{
	if (atomic_fetch_sub(&outbox->references, 1) != 1)
		return;
	watch_free(outbox);
	pthread_cond_destroy(&outbox->changed);
	pthread_mutex_destroy(&outbox->lock);
	free(outbox);
}

void outbox_submit(struct mqfs_outbox *outbox, struct state_job *job)
{
	outbox_ref(outbox);
	pthread_mutex_lock(&outbox->lock);
	outbox->jobs++;
	pthread_mutex_unlock(&outbox->lock);
	state_submit(outbox->state, job);
}

void outbox_job_ended(struct mqfs_outbox *outbox)
{
	pthread_mutex_lock(&outbox->lock);
	outbox->jobs--;
	pthread_cond_broadcast(&outbox->changed);
	pthread_mutex_unlock(&outbox->lock);
	outbox_unref(outbox);
}

static void first_scan(struct mqfs_outbox *outbox)
{
	int r;

	watch_news(outbox);
	r = watch_scan(outbox);
	pthread_mutex_lock(&outbox->lock);
	outbox->loaded = true;
	outbox->load_result = r;
	pthread_cond_broadcast(&outbox->changed);
	pthread_mutex_unlock(&outbox->lock);
}

/* Tells the watcher what is new, whoever did it. */
static void look(struct mqfs_outbox *outbox, int64_t now_ms)
{
	int r = 0;

	if (now_ms >= outbox->poll_ms) {
		outbox->poll_ms = now_ms + (outbox->known ? POLL_MS : POLL_EMPTY_MS);
		outbox->dirty |= watch_news(outbox);
	}
	if (outbox->dirty)
		r = watch_sync(outbox);
	outbox->dirty = r < 0;
	if (r < 0)
		log_debug("%s: can't be read just now", mqfs_state_path(outbox->state));
}

static int64_t outbox_tick(struct mqfs_state *state, struct state_member *member, int64_t now_ms)
{
	struct mqfs_outbox *outbox = (struct mqfs_outbox *)member;
	int64_t next_ms;

	(void)state;
	if (!outbox->loaded)
		first_scan(outbox);
	if (outbox->load_result < 0)
		return MQFS_NEVER;
	look(outbox, now_ms);
	next_ms = sender_tick(outbox, now_ms);
	return next_ms < outbox->poll_ms ? next_ms : outbox->poll_ms;
}

static struct mqfs_outbox *outbox_new(void)
{
	struct mqfs_outbox *outbox = calloc(1, sizeof(*outbox));
	pthread_condattr_t attributes;

	if (!outbox)
		return NULL;
	atomic_init(&outbox->references, 1);
	pthread_mutex_init(&outbox->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&outbox->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	return outbox;
}

int mqfs_outbox_open(struct mqfs_state *state, struct mqfs_backend *backend, const struct mqfs_outbox_limits *limits,
                     const struct mqfs_outbox_watcher *watcher, void *arg, struct mqfs_outbox **ret_outbox)
{
	struct mqfs_outbox *outbox = outbox_new();
	int r;

	if (!outbox)
		return -ENOMEM;
	outbox->member.tick = outbox_tick;
	outbox->state = state;
	outbox->backend = backend;
	outbox->limits = *limits;
	outbox->watcher = *watcher;
	outbox->arg = arg;
	state_join(state, &outbox->member);
	pthread_mutex_lock(&outbox->lock);
	while (!outbox->loaded)
		pthread_cond_wait(&outbox->changed, &outbox->lock);
	r = outbox->load_result;
	pthread_mutex_unlock(&outbox->lock);
	if (r < 0) {
		state_leave(state, &outbox->member);
		outbox_unref(outbox);
		return r;
	}
	*ret_outbox = outbox;
	return 0;
}

/* ---- closing ---- */

/* Waits until *count is 0, at most until deadline_ms. */
static void wait_for(struct mqfs_outbox *outbox, const int *count, int64_t deadline_ms)
{
	struct timespec until = {.tv_sec = deadline_ms / 1000, .tv_nsec = deadline_ms % 1000 * 1000000};
	int r = 0;

	pthread_mutex_lock(&outbox->lock);
	while (*count > 0 && r == 0)
		r = pthread_cond_timedwait(&outbox->changed, &outbox->lock, &until);
	pthread_mutex_unlock(&outbox->lock);
}

static int farewell_run(struct mqfs_state *state, struct state_job *job)
{
	(void)state;
	(void)job;
	return 0;
}

static void farewell_done(struct mqfs_state *state, struct state_job *job)
{
	struct mqfs_outbox *outbox = (struct mqfs_outbox *)((char *)job - offsetof(struct mqfs_outbox, farewell));

	(void)state;
	sender_let_go(outbox);
	outbox_job_ended(outbox);
}

void mqfs_outbox_close(struct mqfs_outbox *outbox)
{
	if (!outbox)
		return;
	pthread_mutex_lock(&outbox->lock);
	outbox->closing = true;
	pthread_mutex_unlock(&outbox->lock);
	state_poke(outbox->state);
	wait_for(outbox, &outbox->flights, mqfs_clock_monotonic_ms() + PATIENCE_MS);
	/* On the state's thread, which flights belong to. */
	outbox->farewell =
	    (struct state_job){.run = farewell_run, .done = farewell_done, .deadline_ms = MQFS_NEVER, .reads = true};
	outbox_submit(outbox, &outbox->farewell);
	wait_for(outbox, &outbox->jobs, mqfs_clock_monotonic_ms() + PATIENCE_MS);
	state_leave(outbox->state, &outbox->member);
	outbox_unref(outbox);
}

void mqfs_outbox_depth(struct mqfs_outbox *outbox, const char *queue, struct mqfs_outbox_depth *ret_depth)
{
	struct line *line;

	pthread_mutex_lock(&outbox->lock);
	*ret_depth = outbox->depth;
	if (queue) {
		HASH_FIND(by_queue, outbox->lines_by_queue, queue, strlen(queue), line);
		*ret_depth = line ? line->depth : (struct mqfs_outbox_depth){0};
	}
	pthread_mutex_unlock(&outbox->lock);
}
