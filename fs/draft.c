/* SPDX-License-Identifier: MIT */
#include "draft.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/failpoint.h>
#include <mqfs/failure.h>

#include "housekeeping.h"
#include "notify.h"
#include "queue.h"

#define TO(state) (1U << DRAFT_##state)

static const unsigned moves[DRAFT_STATES] = {
    [DRAFT_WRITING] = TO(WRITING) | TO(EMPTY) | TO(SENDING) | TO(KEPT) | TO(DOT) | TO(GONE),
    [DRAFT_DOT] = TO(DOT) | TO(WRITING) | TO(SENDING) | TO(KEPT) | TO(GONE),
    [DRAFT_EMPTY] = TO(EMPTY) | TO(WRITING) | TO(SENDING) | TO(DOT) | TO(KEPT) | TO(GONE),
    [DRAFT_SENDING] = TO(GHOST) | TO(KEPT) | TO(DOT) | TO(EMPTY) | TO(GONE),
    [DRAFT_KEPT] = TO(SENDING) | TO(DOT) | TO(GONE),
    [DRAFT_GHOST] = TO(GONE),
    [DRAFT_GONE] = TO(GONE),
};

bool draft_may(enum draft_state from, enum draft_state to)
{
	return moves[from] & (1U << to);
}

void draft_move(struct draft *draft, enum draft_state state)
{
	assert(draft_may(draft->state, state));
	draft->state = state;
}

static bool set_key(struct draft *draft, int priority, const char *name)
{
	char *key;
	int length = asprintf(&key, "%d/%s", priority, name);
	if (length < 0)
		return false;
	free(draft->key);
	draft->key = key;
	draft->name = key + length - strlen(name);
	draft->priority = priority;
	return true;
}

struct draft *draft_new(struct queue *queue, int priority, const char *name, mode_t mode)
{
	if (queue->draft_count >= queue->settings.max_drafts) {
		errno = ENOSPC;
		return NULL;
	}
	struct draft *draft = calloc(1, sizeof(*draft));
	struct mqfs_message *message = draft ? mqfs_message_new() : NULL;
	if (!message || !set_key(draft, priority, name)) {
		mqfs_message_free(message);
		free(draft);
		errno = ENOMEM;
		return NULL;
	}
	atomic_init(&draft->references, 1);
	draft->queue = queue_ref(queue);
	draft->message = message;
	draft->mode = mode & 0777;
	draft->modified_us = mqfs_clock_realtime_us();
	queue->draft_count++;
	return draft;
}

struct draft *draft_ref(struct draft *draft)
{
	atomic_fetch_add(&draft->references, 1);
	return draft;
}

/* Its content is no longer anybody's: sent, or removed with no file open. */
static void drop_message(struct draft *draft)
{
	if (draft->message) {
		draft->queue->draft_count--;
		draft->message = mqfs_message_free(draft->message);
	}
}

static void forget_target(struct draft *draft)
{
	if (draft->target_queue)
		queue_unref(draft->target_queue);
	free(draft->target_name);
	draft->target_queue = NULL;
	draft->target_name = NULL;
}

void draft_unref(struct draft *draft)
{
	if (atomic_fetch_sub(&draft->references, 1) != 1)
		return;
	assert(!draft->named);
	drop_message(draft);
	queue_unref(draft->queue);
	forget_target(draft);
	free(draft->key);
	free(draft->reason);
	free(draft);
}

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

/* The free name nearest to name: itself, name~2, … Ghosts and empty drafts nobody has open make room. */
static void free_name(struct queue *queue, int priority, const char *name, mqfs_name_t ret_name)
{
	struct draft *other;
	snprintf(ret_name, sizeof(mqfs_name_t), "%s", name);
	for (int twin = 2; (other = draft_find(queue, priority, ret_name));) {
		if (other->state == DRAFT_GHOST || (other->state == DRAFT_EMPTY && other->handles == 0))
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
	if (draft->message) {
		draft->queue->draft_count--;
		queue->draft_count++;
	}
	queue_ref(queue);
	queue_unref(draft->queue);
	draft->queue = queue;
}

void draft_set_name(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	mqfs_name_t wanted;
	draft_ref(draft); /* the map's */
	unname(draft);
	free_name(queue, priority, name, wanted);
	change_queue(draft, queue);
	if (!set_key(draft, priority, wanted)) {
		draft_unref(draft); /* out of memory: it stays without a name */
		return;
	}
	draft->named = true;
	HASH_ADD_KEYPTR(hh, queue->drafts, draft->key, strlen(draft->key), draft);
}

void draft_keep(struct draft *draft, int error, const char *reason)
{
	draft_move(draft, DRAFT_KEPT);
	draft->error = error;
	free(draft->reason);
	if (asprintf(&draft->reason, "%s%s%s", strerror(error), reason ? ": " : "", reason ? reason : "") < 0)
		draft->reason = NULL;
	/* Kept ones are all listed in new/; the priority that new/@N/ meant goes with the message. */
	if (draft->priority >= 0)
		draft->message->priority = draft->priority;
	if (!draft->named || draft->priority >= 0) {
		mqfs_name_t name;
		snprintf(name, sizeof(name), "%s", draft->name);
		draft_set_name(draft, draft->queue, -1, name);
	}
}

void draft_become_ghost(struct fs *fs, struct draft *draft)
{
	struct queue *queue = draft->target_queue ? draft->target_queue : draft->queue;
	int priority = draft->target_queue ? draft->target_priority : draft->priority;
	mqfs_name_t name;
	snprintf(name, sizeof(name), "%s", draft->target_name ? draft->target_name : draft->name);

	draft_ref(draft);
	drop_message(draft);
	draft_drop_name(draft);
	struct draft *other = draft_find(queue, priority, name);
	if (other && other->state != DRAFT_GHOST) {
		/* A listed draft has the name: tools that come back for it would touch that one, so no ghost. */
		draft_move(draft, DRAFT_GONE);
	} else {
		draft_set_name(draft, queue, priority, name);
		draft_move(draft, DRAFT_GHOST);
		draft->ghost_until_ms = mqfs_clock_monotonic_ms() + DRAFT_GHOST_MS;
		DL_APPEND(queue->ghosts, draft);
		if (++queue->ghost_count > DRAFT_GHOSTS_MAX)
			queue->ghosts->ghost_until_ms = 0;
		housekeeping_wake(fs, queue->ghosts->ghost_until_ms);
	}
	forget_target(draft);
	draft_unref(draft);
}

void draft_move_ghost(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	if (queue == draft->queue)
		draft_set_name(draft, queue, priority, name);
	else
		draft_discard(draft);
}

void draft_reopen(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	draft_move(draft, DRAFT_WRITING);
	draft_ref(draft);
	unname(draft);
	change_queue(draft, queue);
	set_key(draft, priority, name);
	draft->attempted = false;
	draft_unref(draft);
}

void draft_discard(struct draft *draft)
{
	draft_ref(draft);
	draft_drop_name(draft);
	draft_move(draft, DRAFT_GONE);
	draft_unref(draft);
}

int64_t drafts_tick(struct fs *fs, struct queue *queue, int64_t now_ms)
{
	struct draft *draft;
	while ((draft = queue->ghosts) && draft->ghost_until_ms <= now_ms) {
		notify_forget_name(fs, draft->dir, draft->name);
		draft_drop_name(draft);
	}
	return draft ? draft->ghost_until_ms : MQFS_NEVER;
}

bool draft_has_data(const struct draft *draft)
{
	return draft->bytes > 0;
}

struct sending {
	struct fs *fs;
	struct draft *draft;
	struct queue *queue; /* where to; a reference */
	ticket_t ticket;
};

static void count_outcome(struct queue *queue, int result)
{
	if (result == 0)
		atomic_fetch_add(&queue->counters.confirmed, 1);
	else if (result == -ENOENT)
		atomic_fetch_add(&queue->counters.returned, 1);
	else if (result == -ENOSPC)
		atomic_fetch_add(&queue->counters.nacked, 1);
}

/* A refused rename leaves the files as they were; a refused close() leaves a draft to see. */
static void refused(struct draft *draft, int error, const char *reason)
{
	forget_target(draft);
	if (draft->before == DRAFT_DOT || draft->before == DRAFT_EMPTY)
		draft_move(draft, draft->before);
	else
		draft_keep(draft, error, reason);
}

static void sent(void *arg, int result, const char *reason)
{
	struct sending *sending = arg;
	struct fs *fs = sending->fs;
	struct draft *draft = sending->draft;
	struct queue *queue = sending->queue;

	count_outcome(queue, result);
	FAILPOINT(fs_publish_confirmed);
	if (result == -ENOENT)
		atomic_store(&queue->doubtful, true);

	fs_lock(fs);
	if (result == 0 && draft->state != DRAFT_SENDING)
		drop_message(draft); /* removed meanwhile */
	else if (result == 0)
		draft_become_ghost(fs, draft);
	else if (draft->state == DRAFT_SENDING)
		refused(draft, -result, reason);
	fs_unlock(fs);

	FAILPOINT(fs_publish_answering);
	if (sending->ticket)
		unpark_error(fs, sending->ticket, -result);
	FAILPOINT(fs_publish_answered);
	fs_lock(fs);
	draft_unref(draft);
	queue_unref(queue);
	fs_unlock(fs);
	free(sending);
}

int draft_prepare(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	if (draft->state == DRAFT_SENDING)
		return -EBUSY;
	if (draft->spoiled || draft->killed)
		return -EIO;
	/* An unknown outcome may be tried again: the same message-id lets consumers tell (tenet 1). */
	char id[MQFS_UUID_BYTES];
	if (!draft->message->message_id && mqfs_message_set_string(&draft->message->message_id, mqfs_uuid(id)) < 0)
		return -ENOMEM;
	if (queue != draft->queue || priority != draft->priority || strcmp(name, draft->name) != 0) {
		draft->target_name = strdup(name);
		if (!draft->target_name)
			return -ENOMEM;
		draft->target_queue = queue_ref(queue);
		draft->target_priority = priority;
	}
	draft->before = draft->state;
	draft->attempted = true;
	draft_move(draft, DRAFT_SENDING);
	return 0;
}

/* The message to publish: a copy, since a refused draft keeps its own. The body is shared, not copied. */
static struct mqfs_message *message_of(struct draft *draft, const struct queue *queue)
{
	struct mqfs_message *message = mqfs_message_copy(draft->message);
	if (!message)
		return NULL;
	int priority = draft->target_queue ? draft->target_priority : draft->priority;
	if (priority >= 0)
		message->priority = priority;
	else if (message->priority < 0)
		message->priority = (int)queue->settings.priority;
	const char *name = draft->target_name ? draft->target_name : draft->name;
	if (mqfs_message_stamp(message, name, mqfs_clock_realtime_us()) < 0)
		return mqfs_message_free(message);
	return message;
}

void draft_send(struct fs *fs, struct draft *draft, ticket_t ticket, int64_t deadline_ms)
{
	struct sending *sending = malloc(sizeof(*sending));
	fs_lock(fs);
	struct queue *queue = draft->target_queue ? draft->target_queue : draft->queue;
	struct mqfs_message *message = sending ? message_of(draft, queue) : NULL;
	int64_t delay_ms = draft->delay_ms;
	if (message)
		*sending = (struct sending){fs, draft_ref(draft), queue_ref(queue), ticket};
	else
		refused(draft, ENOMEM, NULL);
	fs_unlock(fs);

	if (!message) {
		free(sending);
		if (ticket)
			unpark_error(fs, ticket, ENOMEM);
		return;
	}
	atomic_fetch_add(&queue->counters.published, 1);
	FAILPOINT(fs_publish_submitting);
	mqfs_publish(fs->backend, queue->name, delay_ms > 0 ? MQFS_PLACE_RETRY : MQFS_PLACE_READY, delay_ms, message,
	             deadline_ms, sent, sending);
}
