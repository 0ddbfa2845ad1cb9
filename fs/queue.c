/* SPDX-License-Identifier: MIT */
#include "queue.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "claim_file.h"
#include "delivery_file.h"
#include "draft.h"
#include "housekeeping.h"
#include "moved.h"

/* Both may still run for a moment when their queue has gone: they are given the mount. */
static void something_is_due(void *arg)
{
	housekeeping_wake(arg, mqfs_clock_monotonic_ms());
}

static void something_is_pending(void *arg)
{
	claim_file_wake_polls(arg);
}

static struct queue *queue_new(struct fs *fs, const char *name)
{
	struct queue *queue = aligned_alloc(_Alignof(struct queue), sizeof(struct queue));
	if (!queue)
		return NULL;
	memset(queue, 0, sizeof(*queue));
	atomic_init(&queue->references, 1);
	queue->fs = fs;
	snprintf(queue->name, sizeof(queue->name), "%s", name);
	mqfs_name_encode(name, queue->file);
	queue->known_us = mqfs_clock_realtime_us();
	fs_lock(fs);
	queue->settings = fs->settings;
	fs_unlock(fs);

	struct mqfs_backend *backend = fs->backend;
	queue->consumer = mqfs_consumer_new(backend, name, &queue->settings, &queue->counters, fs->records);
	queue->retry = mqfs_look_new(backend, name, MQFS_PLACE_RETRY, &queue->settings, &queue->counters);
	queue->dead = mqfs_look_new(backend, name, MQFS_PLACE_DEAD, &queue->settings, &queue->counters);
	if (!queue->consumer || !queue->retry || !queue->dead) {
		queue_unref(queue);
		return NULL;
	}
	mqfs_consumer_on_due(queue->consumer, something_is_due, fs);
	mqfs_consumer_on_pending(queue->consumer, something_is_pending, fs);
	mqfs_look_on_due(queue->retry, something_is_due, fs);
	mqfs_look_on_due(queue->dead, something_is_due, fs);
	return queue;
}

struct queue *queue_ref(struct queue *queue)
{
	atomic_fetch_add(&queue->references, 1);
	return queue;
}

void queue_unref(struct queue *queue)
{
	if (atomic_fetch_sub(&queue->references, 1) != 1)
		return;
	if (queue->consumer)
		mqfs_consumer_free(queue->consumer);
	if (queue->retry)
		mqfs_look_free(queue->retry);
	if (queue->dead)
		mqfs_look_free(queue->dead);
	free(queue);
}

struct queue *queue_known(struct fs *fs, const char *name)
{
	struct queue *queue;
	HASH_FIND_STR(fs->queues, name, queue);
	return queue;
}

struct queue *queue_add(struct fs *fs, const char *name)
{
	struct queue *queue = queue_new(fs, name);
	if (!queue)
		return NULL;
	fs_lock(fs);
	struct queue *other = queue_known(fs, name);
	if (!other) {
		queue->listed = true;
		HASH_ADD_STR(fs->queues, name, queue);
		queue_ref(queue);
	} else {
		queue_ref(other);
	}
	fs_unlock(fs);
	if (!other)
		return queue;
	queue_unref(queue);
	return other;
}

/* Its drafts have nowhere to go: they go with it. (locked) */
static void unlist(struct fs *fs, struct queue *queue)
{
	queue->listed = false;
	HASH_DEL(fs->queues, queue);
	drafts_clear(queue);
	delivery_file_forget_abandoned(queue);
	moved_clear(queue);
}

/* With its drafts, or only when it has none; false: it stays. */
static bool remove_queue(struct fs *fs, struct queue *queue, bool with_drafts)
{
	fs_lock(fs);
	bool listed = queue->listed;
	bool stays = listed && !with_drafts && queue_has_drafts(queue);
	if (stays)
		atomic_store(&queue->doubtful, true);
	else if (listed)
		unlist(fs, queue);
	fs_unlock(fs);
	if (stays)
		return false;
	/* A round of housekeeping that stood at this queue went no further. */
	housekeeping_wake(fs, mqfs_clock_monotonic_ms());
	if (listed)
		queue_unref(queue);
	return true;
}

bool queue_remove(struct fs *fs, struct queue *queue)
{
	return remove_queue(fs, queue, false);
}

/* A reference to the queue after this one, in the order of the table; NULL past the end. Drops that of the one before.
 */
static struct queue *next_queue(struct fs *fs, struct queue *before)
{
	fs_lock(fs);
	struct queue *next = before ? (before->listed ? before->hh.next : NULL) : fs->queues;
	if (next)
		queue_ref(next);
	fs_unlock(fs);
	if (before)
		queue_unref(before);
	return next;
}

int64_t queues_drain(struct fs *fs)
{
	struct mqfs_consumer_state state;
	struct queue *queue = NULL;
	int64_t left = 0;
	while ((queue = next_queue(fs, queue))) {
		mqfs_consumer_drain(queue->consumer);
		mqfs_consumer_state_of(queue->consumer, &state);
		left += state.claimed + state.settling;
	}
	return left;
}

/* A reference to one that is listed no longer, but known to the kernel, and has not been ended; NULL: there is none. */
static struct queue *next_unlisted(struct fs *fs)
{
	struct queue *found = NULL;
	struct node *node, *next;
	fs_lock(fs);
	HASH_ITER(hh, fs->nodes, node, next)
	{
		if (node->queue && !node->queue->ended) {
			found = queue_ref(node->queue);
			break;
		}
	}
	fs_unlock(fs);
	return found;
}

static void queue_end(struct fs *fs, struct queue *queue)
{
	fs_lock(fs);
	queue->ended = true;
	fs_unlock(fs);
	mqfs_consumer_end(queue->consumer);
	mqfs_look_end(queue->retry);
	mqfs_look_end(queue->dead);
}

void queues_end(struct fs *fs)
{
	struct queue *queue = NULL;
	while ((queue = next_queue(fs, queue)))
		queue_end(fs, queue);
	while ((queue = next_unlisted(fs))) {
		queue_end(fs, queue);
		queue_unref(queue);
	}
}

void queues_clear(struct fs *fs)
{
	struct queue *queue;
	while ((queue = next_queue(fs, NULL))) {
		remove_queue(fs, queue, true);
		queue_unref(queue);
	}
}

static bool is_dead_queue_of(const struct queue *queue, const char *name)
{
	mqfs_name_t dead;
	mqfs_name_dead_queue(queue->name, dead);
	return strcmp(dead, name) == 0;
}

bool queue_is_helper(struct fs *fs, const char *name)
{
	if (mqfs_name_is_reserved(name))
		return true;
	struct queue *queue, *next;
	HASH_ITER(hh, fs->queues, queue, next)
	{
		if (is_dead_queue_of(queue, name))
			return true;
	}
	return false;
}

int queue_configure(struct fs *fs, struct queue *queue, const char *name, const char *value)
{
	fs_lock(fs);
	int result = mqfs_settings_set(&queue->settings, name, value, NULL);
	struct mqfs_settings settings = queue->settings;
	fs_unlock(fs);
	if (result == 0) {
		mqfs_consumer_configure(queue->consumer, &settings);
		mqfs_look_configure(queue->retry, &settings);
		mqfs_look_configure(queue->dead, &settings);
	}
	return result;
}

static int64_t queue_tick(struct fs *fs, struct queue *queue, int64_t now_ms)
{
	fs_lock(fs);
	int64_t next = mqfs_clock_earlier(drafts_tick(fs, queue, now_ms), moved_tick(queue, now_ms));
	fs_unlock(fs);
	next = mqfs_clock_earlier(next, delivery_file_tick(fs, queue, now_ms));
	next = mqfs_clock_earlier(next, claim_file_tick(fs, queue, now_ms));
	next = mqfs_clock_earlier(next, mqfs_consumer_tick(queue->consumer, now_ms));
	next = mqfs_clock_earlier(next, mqfs_look_tick(queue->retry, now_ms));
	return mqfs_clock_earlier(next, mqfs_look_tick(queue->dead, now_ms));
}

int64_t queues_tick(struct fs *fs, int64_t now_ms)
{
	int64_t next = MQFS_NEVER;
	struct queue *queue = NULL;
	while ((queue = next_queue(fs, queue)))
		next = mqfs_clock_earlier(next, queue_tick(fs, queue, now_ms));
	return next;
}
