/* SPDX-License-Identifier: MIT */
/*
 * What a draft leaves behind for a moment: the ghost of a published one, whose name still answers (P5), and a removed
 * one, which may be put back.
 */
#include "draft.h"

#include <string.h>
#include <stdio.h>
#include <utlist.h>

#include "draft_store.h"
#include "housekeeping.h"
#include "notify.h"
#include "queue.h"

/* When the oldest goes; there is one. */
static int64_t ghosts_due_ms(const struct queue *queue)
{
	return queue->ghost_count > DRAFT_GHOSTS_MAX ? 0 : queue->ghosts->until_ms;
}

void draft_become_ghost(struct fs *fs, struct draft *draft)
{
	struct destination to = draft_destination(draft);
	mqfs_name_t name; /* draft_drop_name may free what to.name points into */
	snprintf(name, sizeof(name), "%s", to.name);

	draft_ref(draft);
	draft->published = true;
	draft->was_queued = draft->state == DRAFT_QUEUED;
	draft_drop_name(draft);
	struct draft *other = draft_find(to.queue, to.priority, name);
	/* A listed draft has the name: tools that come back for it would touch that one, so no ghost. */
	if (!other || draft_makes_room(other))
		draft_set_name(draft, to.queue, to.priority, name);
	if (!draft->named) {
		draft_move(draft, DRAFT_GONE);
	} else {
		struct queue *queue = draft->queue;
		draft_move(draft, DRAFT_GHOST);
		draft->until_ms = mqfs_clock_monotonic_ms() + DRAFT_GHOST_MS;
		DL_APPEND(queue->ghosts, draft);
		queue->ghost_count++;
		housekeeping_wake(fs, ghosts_due_ms(queue));
	}
	draft_forget_target(draft);
	draft_let_go(draft);
	draft_follow(draft);
	draft_unref(draft);
}

void draft_move_ghost(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	if (queue == draft->queue)
		draft_set_name(draft, queue, priority, name);
	else
		draft_discard(draft);
}

/* --- removed, and perhaps put back --- */

void draft_remove(struct fs *fs, struct draft *draft, pid_t tid)
{
	draft_ref(draft); /* the list's */
	draft->before = draft->state;
	draft_move(draft, DRAFT_REMOVED);
	draft_drop_name(draft);
	draft->removed_by = tid;
	draft->until_ms = mqfs_clock_monotonic_ms() + DRAFT_REMOVED_MS;
	DL_APPEND(draft->queue->removed, draft);
	draft_let_go(draft);
	housekeeping_wake(fs, draft->until_ms);
}

struct draft *draft_put_back(struct queue *queue, int priority, const char *name, pid_t tid, bool exclusive)
{
	struct draft *draft;
	DL_FOREACH(queue->removed, draft)
	{
		bool wanted = exclusive || draft->before == DRAFT_QUEUED;
		if (wanted && draft->removed_by == tid && draft->priority == priority && strcmp(draft->name, name) == 0)
			break;
	}
	if (!draft)
		return NULL;
	DL_DELETE(queue->removed, draft);
	draft_move(draft, draft->before);
	draft_set_name(draft, queue, priority, name);
	draft_unref(draft);
	return draft;
}

static void end_removed(struct draft *draft)
{
	DL_DELETE(draft->queue->removed, draft);
	draft_discard(draft);
	draft_unref(draft);
}

int64_t drafts_tick(struct fs *fs, struct queue *queue, int64_t now_ms)
{
	struct draft *ghost, *removed;
	while ((ghost = queue->ghosts) && ghosts_due_ms(queue) <= now_ms) {
		if (ghost->dir)
			notify_forget_name(fs, ghost->dir, ghost->name);
		draft_drop_name(ghost);
	}
	while ((removed = queue->removed) && removed->until_ms <= now_ms)
		end_removed(removed);
	int64_t next_ms = ghost ? ghost->until_ms : MQFS_NEVER;
	return removed && removed->until_ms < next_ms ? removed->until_ms : next_ms;
}

void drafts_clear(struct queue *queue)
{
	struct draft *draft, *next;
	HASH_ITER(hh, queue->drafts, draft, next)
	{
		draft_discard(draft);
	}
	while (queue->removed)
		end_removed(queue->removed);
}
