/* SPDX-License-Identifier: MIT */
#include "known.h"

#include <stdlib.h>
#include <string.h>

#include <mqfs/clock.h>
#include <mqfs/retry.h>

void known_init(struct known *known)
{
	*known = (struct known){0};
	pthread_mutex_init(&known->lock, NULL);
}

/* Under the lock. NULL: not there, and not to be made or no memory for it. */
static struct known_queue *get(struct known *known, const char *queue, bool make)
{
	struct known_queue *found;

	HASH_FIND_STR(known->queues, queue, found);
	if (found || !make)
		return found;
	found = calloc(1, sizeof(*found));
	if (!found)
		return NULL;
	found->queue = strdup(queue);
	if (!found->queue) {
		free(found);
		return NULL;
	}
	HASH_ADD_KEYPTR(hh, known->queues, found->queue, strlen(found->queue), found);
	if (!found->hh.tbl) {
		free(found->queue);
		free(found);
		return NULL;
	}
	return found;
}

static void drop(struct known *known, struct known_queue *queue)
{
	HASH_DEL(known->queues, queue);
	free(queue->queue);
	free(queue);
}

void known_deinit(struct known *known)
{
	struct known_queue *queue, *tmp;

	HASH_ITER(hh, known->queues, queue, tmp)
	{
		drop(known, queue);
	}
	pthread_mutex_destroy(&known->lock);
}

void known_forget(struct known *known, const char *queue)
{
	struct known_queue *found;

	pthread_mutex_lock(&known->lock);
	found = get(known, queue, false);
	if (found)
		drop(known, found);
	pthread_mutex_unlock(&known->lock);
}

enum kind known_kind(struct known *known, const char *queue)
{
	struct known_queue *found;
	enum kind kind;

	pthread_mutex_lock(&known->lock);
	found = get(known, queue, false);
	kind = found ? found->kind : KIND_UNKNOWN;
	pthread_mutex_unlock(&known->lock);
	return kind;
}

void known_set_kind(struct known *known, const char *queue, enum kind kind)
{
	struct known_queue *found;

	pthread_mutex_lock(&known->lock);
	found = get(known, queue, true);
	if (found)
		found->kind = kind;
	pthread_mutex_unlock(&known->lock);
}

bool known_refused(struct known *known, const char *queue)
{
	struct known_queue *found;
	bool refused;

	pthread_mutex_lock(&known->lock);
	found = get(known, queue, false);
	refused = found && found->refused;
	pthread_mutex_unlock(&known->lock);
	return refused;
}

void known_note_refusal(struct known *known, const char *queue)
{
	struct known_queue *found;

	pthread_mutex_lock(&known->lock);
	found = get(known, queue, true);
	if (found)
		found->refused = true;
	pthread_mutex_unlock(&known->lock);
}

unsigned known_level_index(int64_t level_ms)
{
	unsigned index = 0;

	while (index < KNOWN_LEVELS - 1 && mqfs_retry_level_at(index) < level_ms)
		index++;
	return index;
}

void known_note_level(struct known *known, const char *queue, unsigned index, bool is_there)
{
	struct known_queue *found;

	pthread_mutex_lock(&known->lock);
	found = get(known, queue, true);
	if (found && is_there)
		found->levels |= 1u << index;
	else if (found)
		found->levels &= ~(1u << index);
	pthread_mutex_unlock(&known->lock);
}

void known_note_tried(struct known *known, const char *queue)
{
	struct known_queue *found;

	pthread_mutex_lock(&known->lock);
	found = get(known, queue, true);
	if (found)
		found->tried_ms = mqfs_clock_monotonic_ms();
	pthread_mutex_unlock(&known->lock);
}

bool known_levels(struct known *known, const char *queue, int64_t stale_ms, uint32_t *ret_levels)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();
	struct known_queue *found;
	bool all;

	pthread_mutex_lock(&known->lock);
	found = get(known, queue, false);
	all = !found || found->tried_ms == 0 || now_ms - found->tried_ms >= stale_ms;
	*ret_levels = all ? UINT32_MAX : found->levels;
	pthread_mutex_unlock(&known->lock);
	return all;
}
