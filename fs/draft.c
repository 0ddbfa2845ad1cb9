/* SPDX-License-Identifier: MIT */
#include "draft.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "draft_store.h"
#include "queue.h"

#define TO(state) (1U << DRAFT_##state)

/* Another mount of the host may change what the state file has; so what is there may become any other kind of it. */
#define STORED (TO(DOT) | TO(EMPTY) | TO(KEPT) | TO(QUEUED))

static const unsigned moves[DRAFT_STATES] = {
    [DRAFT_WRITING] = TO(WRITING) | TO(EMPTY) | TO(SENDING) | TO(KEPT) | TO(DOT) | TO(GONE),
    [DRAFT_DOT] = STORED | TO(WRITING) | TO(SENDING) | TO(GONE),
    [DRAFT_EMPTY] = STORED | TO(WRITING) | TO(SENDING) | TO(GONE),
    [DRAFT_SENDING] = TO(GHOST) | TO(KEPT) | TO(DOT) | TO(EMPTY) | TO(QUEUED) | TO(GONE),
    [DRAFT_QUEUED] = STORED | TO(REMOVED) | TO(GHOST) | TO(GONE),
    [DRAFT_KEPT] = STORED | TO(SENDING) | TO(REMOVED) | TO(GONE),
    [DRAFT_REMOVED] = TO(KEPT) | TO(QUEUED) | TO(GONE),
    [DRAFT_GHOST] = TO(GONE),
    [DRAFT_GONE] = TO(GONE),
};

bool draft_may(enum draft_state from, enum draft_state to)
{
	return moves[from] & (1U << to);
}

static void set_counted(struct draft *draft, bool counted)
{
	draft->queue->draft_count += counted - draft->counted;
	draft->counted = counted;
}

void draft_move(struct draft *draft, enum draft_state state)
{
	assert(draft_may(draft->state, state));
	draft->state = state;
	if (state != DRAFT_QUEUED && state != DRAFT_SENDING)
		draft_line_up(draft, NULL);
	set_counted(draft, state < DRAFT_QUEUED || state == DRAFT_KEPT);
}

void draft_line_up(struct draft *draft, struct queue *queue)
{
	struct queue *before = draft->line;
	if (before == queue)
		return;
	draft->line = queue ? queue_ref(queue) : NULL;
	if (queue)
		queue->in_line++;
	if (before) {
		before->in_line--;
		queue_unref(before);
	}
}

/* NULL: out of memory. */
static char *key_of(int priority, const char *name)
{
	char *key;
	return asprintf(&key, "%d/%s", priority, name) < 0 ? NULL : key;
}

/* Takes key, which names nothing yet; NULL leaves it as it is. */
static void set_key(struct draft *draft, int priority, char *key)
{
	if (!key)
		return;
	free(draft->key);
	draft->key = key;
	draft->name = strchr(key, '/') + 1;
	draft->priority = priority;
}

struct draft *draft_new_stored(struct queue *queue, int priority, const char *name, mode_t mode)
{
	struct draft *draft = calloc(1, sizeof(*draft));
	char *key = draft ? key_of(priority, name) : NULL;
	if (!key) {
		free(draft);
		return NULL;
	}
	set_key(draft, priority, key);
	atomic_init(&draft->references, 1);
	draft->queue = queue_ref(queue);
	draft->mode = mode & 0777;
	draft->modified_us = mqfs_clock_realtime_us();
	draft->version = 1;
	draft->state = DRAFT_EMPTY;
	set_counted(draft, true);
	DL_APPEND2(queue->fs->live, draft, prev_live, next_live);
	return draft;
}

struct draft *draft_new(struct queue *queue, int priority, const char *name, mode_t mode)
{
	if (queue->draft_count >= queue->settings.max_drafts) {
		errno = ENOSPC;
		return NULL;
	}
	struct draft *draft = draft_new_stored(queue, priority, name, mode);
	struct mqfs_message *message = draft ? mqfs_message_new() : NULL;
	if (!message) {
		if (draft)
			draft_unref(draft);
		errno = ENOMEM;
		return NULL;
	}
	draft->state = DRAFT_WRITING;
	draft->message = message;
	return draft;
}

struct draft *draft_ref(struct draft *draft)
{
	atomic_fetch_add(&draft->references, 1);
	return draft;
}

void draft_unref(struct draft *draft)
{
	if (atomic_fetch_sub(&draft->references, 1) != 1)
		return;
	assert(!draft->named && !draft->stored_id && !draft->syncs);
	DL_DELETE2(draft->queue->fs->live, draft, prev_live, next_live);
	draft_line_up(draft, NULL);
	set_counted(draft, false);
	mqfs_message_free(draft->message);
	if (draft->target_queue)
		queue_unref(draft->target_queue);
	queue_unref(draft->queue);
	free(draft->target_name);
	free(draft->key);
	free(draft->stored_name);
	free(draft->reason);
	free(draft);
}

/* --- content --- */

void draft_pin(struct draft *draft)
{
	draft->pins++;
}

void draft_unpin(struct draft *draft)
{
	assert(draft->pins > 0);
	draft->pins--;
	draft_let_go(draft);
}

/* What is QUEUED or KEPT may lie for long: the disk has it. Ordinary files and empty drafts are about to be used. */
void draft_let_go(struct draft *draft)
{
	bool over = draft->state == DRAFT_GHOST || draft->state == DRAFT_GONE;
	bool resting = draft->state == DRAFT_QUEUED || draft->state == DRAFT_KEPT || draft->state == DRAFT_REMOVED;
	bool on_disk = draft->stored_id && !draft->storing && draft->stored_version == draft->version;
	if (draft->pins == 0 && (over || draft->stale || (resting && on_disk))) {
		draft->message = mqfs_message_free(draft->message);
		draft->stale = false;
	}
}

void draft_changed(struct draft *draft)
{
	draft->version++;
	draft_follow(draft);
}

bool draft_has_data(const struct draft *draft)
{
	return draft->bytes > 0;
}

bool queue_has_drafts(const struct queue *queue)
{
	return queue->draft_count > 0 || queue->in_line > 0;
}

/* --- names --- */

struct draft *draft_find(struct queue *queue, int priority, const char *name)
{
	char key[MQFS_NAME_MAX + 8];
	struct draft *draft;
	snprintf(key, sizeof(key), "%d/%s", priority, name);
	HASH_FIND_STR(queue->drafts, key, draft);
	return draft;
}

/* Takes it out of the map, whatever its state. */
static void unname(struct draft *draft)
{
	if (!draft->named)
		return;
	draft->named = false;
	HASH_DEL(draft->queue->drafts, draft);
	draft_unref(draft);
}

void draft_drop_name(struct draft *draft)
{
	if (draft->state == DRAFT_GHOST) {
		DL_DELETE(draft->queue->ghosts, draft);
		draft->queue->ghost_count--;
		draft_move(draft, DRAFT_GONE);
	}
	unname(draft);
}

bool draft_makes_room(const struct draft *draft)
{
	return draft->state == DRAFT_GHOST || (draft->state == DRAFT_EMPTY && draft->handles == 0);
}

/* The name nearest to name that is free for draft: itself, name~2, … */
static void free_name(struct draft *draft, struct queue *queue, int priority, const char *name, mqfs_name_t ret_name)
{
	struct draft *other;
	snprintf(ret_name, sizeof(mqfs_name_t), "%s", name);
	for (int twin = 2; (other = draft_find(queue, priority, ret_name)) && other != draft;) {
		if (draft_makes_room(other))
			draft_discard(other);
		else
			snprintf(ret_name, sizeof(mqfs_name_t), "%.*s~%d", MQFS_NAME_MAX - 12, name, twin++);
	}
}

/* Its messages, and the room it takes, are another queue's from now on. */
static void change_queue(struct draft *draft, struct queue *queue)
{
	if (queue == draft->queue)
		return;
	draft->queue->draft_count -= draft->counted;
	queue->draft_count += draft->counted;
	queue_ref(queue);
	queue_unref(draft->queue);
	draft->queue = queue;
}

void draft_set_name(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	mqfs_name_t wanted;
	free_name(draft, queue, priority, name, wanted);
	char *key = key_of(priority, wanted);
	if (!key && (draft->named || draft_find(draft->queue, draft->priority, draft->name)))
		return;   /* out of memory: it keeps the name that it has, or, where that is another's by now, none */
	draft_ref(draft); /* the map's */
	unname(draft);
	if (key)
		change_queue(draft, queue);
	set_key(draft, priority, key);
	draft->named = true;
	HASH_ADD_KEYPTR(hh, queue->drafts, draft->key, strlen(draft->key), draft);
}

struct destination draft_destination(const struct draft *draft)
{
	if (draft->target_queue)
		return (struct destination){draft->target_queue, draft->target_priority, draft->target_name};
	return (struct destination){draft->queue, draft->priority, draft->name};
}

void draft_forget_target(struct draft *draft)
{
	if (draft->target_queue)
		queue_unref(draft->target_queue);
	free(draft->target_name);
	draft->target_queue = NULL;
	draft->target_name = NULL;
}

/* --- what becomes of it --- */

static void set_reason(struct draft *draft, int error, const char *reason)
{
	char *copy = reason ? strdup(reason) : NULL;
	free(draft->reason);
	draft->error = error;
	draft->reason = copy;
}

void draft_keep(struct draft *draft, int error, const char *reason)
{
	draft_move(draft, DRAFT_KEPT);
	set_reason(draft, error, reason);
	/* Kept ones are all listed in new/; the priority that new/@N/ meant goes with the message. */
	if (draft->priority >= 0 && draft->message)
		draft->message->priority = draft->priority;
	if (!draft->named || draft->priority >= 0) {
		mqfs_name_t name;
		snprintf(name, sizeof(name), "%s", draft->name);
		draft_set_name(draft, draft->queue, -1, name);
	}
}

void draft_queue(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	draft_line_up(draft, queue);
	draft_move(draft, DRAFT_QUEUED);
	draft_set_name(draft, queue, priority, name);
	draft_forget_target(draft);
	set_reason(draft, 0, NULL);
}

void draft_become_file(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	draft_move(draft, name[0] == '.' ? DRAFT_DOT : DRAFT_EMPTY);
	draft->spoiled = draft->killed = draft->attempted = false;
	set_reason(draft, 0, NULL);
	draft_set_name(draft, queue, priority, name);
}

void draft_reopen(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	draft_move(draft, DRAFT_WRITING);
	draft_ref(draft);
	unname(draft);
	char *key = key_of(priority, name);
	if (key)
		change_queue(draft, queue);
	set_key(draft, priority, key);
	draft->attempted = false;
	draft_unref(draft);
}

void draft_discard(struct draft *draft)
{
	draft_ref(draft);
	draft_drop_name(draft);
	draft_move(draft, DRAFT_GONE);
	draft_let_go(draft);
	draft_follow(draft);
	draft_unref(draft);
}
